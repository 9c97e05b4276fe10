"""The liveness endpoint while the controller waits for its API server or CRD, before kopf serves it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Alive(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """To wait is to be alive."""
        body = b"{}"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Probes are not worth a line."""


@contextlib.contextmanager
def answering(port: int) -> Iterator[None]:
    """Answer every GET on that port with 200 while the block runs; the port is free behind it."""
    with ThreadingHTTPServer(("", port), _Alive) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
