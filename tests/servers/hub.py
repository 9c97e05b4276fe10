"""A small server that speaks as the Hugging Face Hub does, on this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "somebody/tiny"


class Hub(BaseHTTPRequestHandler):
    """Serves the files of `folder` that `names` lists as `somebody/tiny`, at one commit."""

    folder: Path
    names: list[str]
    token: str | None
    refuses: int | None
    asked: list[str]

    def log_message(self, *_args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:  # noqa: PLR0911 - one for each kind of answer
        self.asked.append(f"{self.command} {self.path}")
        if self.refuses:
            return self._answer(self.refuses, b"{}")
        if self.token and self.headers.get("Authorization") != f"Bearer {self.token}":
            return self._answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/{NAME}"):
            if path == f"/api/models/{NAME}/tree/{COMMIT}":
                return self._answer(200, json.dumps([self._entry(name) for name in self.names]).encode())
            revision = path.removeprefix(f"/api/models/{NAME}").removeprefix("/revision/") or "main"
            if revision not in ("main", COMMIT):
                return self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            files = [{"rfilename": name} for name in self.names]
            return self._answer(200, json.dumps({"id": NAME, "sha": COMMIT, "siblings": files}).encode())
        prefix = f"/{NAME}/resolve/{COMMIT}/"
        if path.startswith(prefix) and (self.folder / path.removeprefix(prefix)).is_file():
            return self._answer(200, (self.folder / path.removeprefix(prefix)).read_bytes())
        missing = "EntryNotFound" if path.startswith(prefix) else "RepoNotFound"
        return self._answer(404, b"{}", {"X-Error-Code": missing})

    def _entry(self, name: str) -> dict[str, object]:
        path = self.folder / name
        return {"type": "file", "path": name, "oid": COMMIT, "size": path.stat().st_size if path.is_file() else 0}

    def _answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        etag = hashlib.sha256(data).hexdigest()
        given = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Content-Length": str(len(data))} | (headers or {})
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@contextmanager
def serving(folder: Path, names: list[str]) -> Iterator[tuple[type[Hub], str]]:
    """A hub with one model, and its address, for HF_ENDPOINT."""
    given = {"folder": folder, "names": names, "token": None, "refuses": None, "asked": []}
    handler = type("Handler", (Hub,), given)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield handler, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
