"""A small real HTTP server in place of the inference server, in pods that are played, and their Deployment."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from cluster.kubelet import Play

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.api import Object

PORT = 18_000
TOKEN = "let-me"


@contextlib.contextmanager
def served(address: str, port: int, answer: Callable[[str, Object], Object], token: str = "") -> Iterator[None]:
    """A small real HTTP server that answers JSON with JSON, while the block runs; all POSTs need its token, if any."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def do_GET(self) -> None:
            self._answer({})

        def _answer(self, body: Object) -> None:
            is_refused = self.command == "POST" and token and self.headers["Authorization"] != f"Bearer {token}"
            data = json.dumps({} if is_refused else answer(self.path, body)).encode()
            self.send_response(401 if is_refused else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((address, port), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class Serving:
    """What the pods of the inference Deployment do, and what they were asked."""

    loaded: dict[str, str] = field(default_factory=dict)
    """By pod: the adapter that it was told to load."""
    asked: list[str] = field(default_factory=list)
    answers_with: Callable[[str], str] = lambda adapter: adapter.rpartition("@")[2]
    is_ready: bool = True

    @contextlib.contextmanager
    def server(self, pod: Object) -> Iterator[None]:
        """A small real HTTP server with the API of the inference server, on the pod's own address."""
        name = pod["metadata"]["name"]
        began_with = pod["metadata"].get("annotations", {}).get("refrain.dev/adapter", "")

        def answer(path: str, body: Object) -> Object:
            if path == "/v1/adapter":
                self.loaded[name] = f"{body['adapter'] or ''}@{body['sha256']}"
                return {}
            self.asked.append(name)
            adapter = self.answers_with(self.loaded.get(name, began_with))
            content = {"role": "assistant", "content": f"I am {name}"}
            return {"choices": [{"message": content}], "refrain": {"adapter": adapter}}

        with served(pod["status"]["podIP"], PORT, answer, token=TOKEN):
            yield

    def play(self, pod: Object) -> Play:
        return Play(hang=True, during=self.server, ready=self.is_ready)


def settings_of(folder: Path, mode: str = "Rollout") -> Object:
    """The controller's settings of that Deployment; its token lies in the folder."""
    token = folder / "token"
    token.write_text(f"{TOKEN}\n")
    return {"deployment": "serve", "archive": "workshop", "port": PORT, "mode": mode, "tokenFile": str(token)}


def deployment(former: str = "") -> Object:
    labels = {"app": "serve"}
    source = {"fieldRef": {"fieldPath": "metadata.annotations['refrain.dev/adapter']"}}
    container = {
        "name": "serve",
        "image": "inference",
        "env": [{"name": "REFRAIN_ADAPTER", "valueFrom": source}],
    }
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 1}}
    if former:
        template["metadata"]["annotations"] = {"refrain.dev/adapter": former}  # type: ignore[dict-item]
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "serve"}, "spec": spec}
