"""What every request passes: the host that it names, the token, the size of its body; and the headers of every answer.

Three dangers are met here. Another machine must not read pictures: without a token only this machine's own names are
answered, which also stops a foreign page whose name was made to point to 127.0.0.1 (DNS rebinding). Another page in the
same browser must not search: its requests are refused by ``Sec-Fetch-Site``, and no cookie is sent with them. And text
of captions and file names must not run in the page: its policy allows no script but the one file that ships with it.
"""

import hmac
from http.cookies import CookieError, SimpleCookie

from cada_plugin.errors import needs_extra

with needs_extra("serve"):
    from fastapi import HTTPException
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.responses import JSONResponse
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "cada_token"
LOGIN = "/api/login"
LOCAL = ("127.0.0.1", "localhost", "::1")
"""Names of this machine."""
UPLOAD = "/api/search-by-picture"
MAX_UPLOAD, MAX_BODY = 16 * 2**20, 2**20
"""Bytes of a request with pictures, and of any other."""
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """Wraps an application. ``token`` None asks for none, and answers only requests to ``LOCAL``."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope, Headers(scope=scope))
        if refusal is None:
            await self._app(scope, _bounded(receive, _limit(scope)), send_with_headers)
        else:
            status, reason = refusal
            await JSONResponse({"detail": reason}, status)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        if self._token is None and _name(headers.get("host", "")) not in LOCAL:
            return 421, f"this server answers to {LOCAL[0]} and {LOCAL[1]} alone: start it with --host and --token"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > _limit(scope):
            return 413, _too_large(_limit(scope))
        if not scope["path"].startswith("/api/"):
            return None
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, "requests of other pages are refused"
        if self._token is not None and scope["path"] != LOGIN and not self._is_known(headers):
            return 401, "a token is needed: send it as `Authorization: Bearer TOKEN`, or log in on the page"
        return None

    def _is_known(self, headers: Headers) -> bool:
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and same_token(token.strip(), self._token):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and same_token(cookie.value, self._token)


def same_token(given: str, token: str) -> bool:
    """Whether two tokens are the same, in a time that does not tell how much of them is."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), token.encode())


def _limit(scope: Scope) -> int:
    return MAX_UPLOAD if scope["path"] == UPLOAD else MAX_BODY


def _too_large(limit: int) -> str:
    return f"the request is too large: send at most {limit // 2**20} MB"


def _bounded(receive: Receive, limit: int) -> Receive:
    """``receive`` of a body whose length is not declared, or declared wrongly."""
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise HTTPException(413, _too_large(limit))
        return message

    return bounded


def _name(host: str) -> str:
    """The host without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
