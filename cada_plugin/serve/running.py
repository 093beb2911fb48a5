"""Serves a gallery until the process is told to end."""

import os
import re
import socket
from collections.abc import Callable

from cada_plugin.errors import ConfigError, needs_extra
from cada_plugin.gallery import Gallery
from cada_plugin.serve.api import create_app
from cada_plugin.serve.guard import LOCAL

with needs_extra("serve"):
    import uvicorn

_TOKEN = re.compile(r"[A-Za-z0-9_-]{12,200}")


def check_address(host: str, token: str | None) -> None:
    """Refuse a server that anybody in the network could read.

    Raises:
        ConfigError: ``host`` is not this machine and there is no token, or the token is too short.
    """
    if token is not None and not _TOKEN.fullmatch(token):
        raise ConfigError("--token: use 12 to 200 letters, digits, - and _, such as `openssl rand -hex 16` prints")
    if token is None and host not in LOCAL:
        raise ConfigError(
            f"--host {host} lets other machines in: give --token as well, such as `openssl rand -hex 16` prints, or "
            "set CADA_TOKEN"
        )


def listen(host: str, port: int) -> socket.socket:
    """A socket that waits for connections; port 0 takes any that is free.

    Raises:
        ConfigError: the address cannot be used.
    """
    if not 0 <= port < 65536:  # the system would take the rest of a division
        raise ConfigError(f"--port {port}: use 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With the protocol, unlike `socket.create_server`: without it asyncio does not turn off Nagle's algorithm, and
        # every small answer waits 40 ms.
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(128)
        except BaseException:
            sock.close()
            raise
        return sock
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {host}, port {port} ({error}): give another --host or --port") from error


def serve(gallery: Gallery, sock: socket.socket, token: str | None, ready: Callable[[str], None]) -> None:
    """Answer requests until a signal comes.

    Args:
        ready: is called with the address of the page as soon as it can be opened.
    """
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    config = uvicorn.Config(
        create_app(gallery, token),
        log_level="warning",
        access_log=False,  # an address holds what somebody searched for
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    server = _Server(config, lambda: ready(f"http://{shown}:{port}/"))
    try:
        server.run(sockets=[sock])
    except KeyboardInterrupt:  # uvicorn repeats the signal that ended it
        return
    finally:
        sock.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def token_of(given: str | None) -> str | None:
    """The token of the command line, or of the environment, which other users of the machine cannot list."""
    return given or os.environ.get("CADA_TOKEN") or None
