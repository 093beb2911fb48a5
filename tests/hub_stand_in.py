"""A local server that answers the HTTP calls by which ``huggingface_hub`` uploads to and downloads from the Hub.

Only what an upload of small files in one commit and a snapshot need: making a repository, asking how files are uploaded
(always inside the commit), the commit, the list of files, and the files.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandIn(ThreadingHTTPServer):
    """``files`` holds the content of every uploaded file as ``owner/name/path``, ``calls`` the requests made."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.private: dict[str, bool] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def stand_in() -> Iterator[StandIn]:
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, content: object, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.calls.append(f"POST {self.path}")
        if self.headers.get("Authorization") != "Bearer hf_stand_in":
            return self._answer({"error": "no token"}, 401)
        parts = self.path.strip("/").split("/")
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'somebody'}/{wanted['name']}"
            self.server.private[name] = bool(wanted.get("private")) or wanted.get("visibility") == "private"
            return self._answer({"url": f"{self.server.address}/{name}"})
        if "preupload" in parts:
            how = {"uploadMode": "regular", "shouldIgnore": False}
            return self._answer({"files": [{"path": file["path"], **how} for file in json.loads(body)["files"]]})
        if "commit" in parts:
            repository = "/".join(parts[2:4])
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.server.files[f"{repository}/{entry['value']['path']}"] = content
            url = f"{self.server.address}/{repository}/commit/{COMMIT}"
            return self._answer({"commitUrl": url, "commitOid": COMMIT, "hookOutput": ""})
        if self.path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        return self._answer({"error": "unknown call"}, 404)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.server.calls.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        repository = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        files = {name: body for name, body in self.server.files.items() if name.startswith(f"{repository}/")}
        if not files:
            return self._answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        if "tree" in parts:
            rows = [_row(name.removeprefix(f"{repository}/"), body) for name, body in files.items()]
            return self._answer(rows)
        if parts[0] == "api":
            names = [{"rfilename": name.removeprefix(f"{repository}/")} for name in files]
            return self._answer({"id": repository, "sha": COMMIT, "siblings": names, "private": False, "tags": []})
        body = files.get("/".join([repository, *parts[4:]]))
        if body is None:
            return self._answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
        return self._answer(body, ETag=f'"{hashlib.sha1(body).hexdigest()}"')

    do_HEAD = do_GET


def _row(name: str, body: bytes) -> dict:
    return {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
