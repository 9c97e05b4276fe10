"""A small server with the part of vLLM's API that `jobs.serving.vllm` uses, over the same tiny model.

No vLLM runs here: that part was read from its documentation.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from jobs.ml.base_model import find_base
from jobs.ml.decoding import Decoder, Growing, Sampling

MAX_MODEL_LEN = 512


@dataclass
class Vllm:
    """What it was started with, and what it was asked."""

    config: dict[str, Any]
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    num_left: int = 0
    """Answers whose client went away."""
    breaks_after: int | None = None
    """Tokens after which it dies in the middle of an answer."""
    gives_tokens: bool = True
    """Before 0.10.2 vLLM passed over `return_token_ids`."""
    odd_choice: str = ""
    """What stands in its events where a choice belongs."""
    stalls_seed: int | None = None
    """Answers with this seed have no token before `goes_on` is set, as in a full vLLM's queue."""
    goes_on: threading.Event = field(default_factory=threading.Event)
    is_well: bool = True
    """Whether its engine is."""
    is_over: bool = False
    """Threads that answer yet compute nothing more: torch would take the process down with it where that ends."""

    def __post_init__(self) -> None:
        self.decoder = Decoder(find_base(self.config["model"]), device="cpu", precision="fp32")
        modules = dict(one.split("=", 1) for one in self.config.get("lora-modules", ()))
        self.loaded = {self.config["served-model-name"]: self.decoder.load(None)}
        self.loaded |= {name: self.decoder.load(Path(folder)) for name, folder in modules.items()}
        self.lock = threading.Lock()

    def tokens(self, body: dict[str, Any]) -> Iterator[int]:
        sampling = Sampling(body["temperature"], body["top_p"], body.get("seed"))
        growing: Growing | None = None
        for _ in range(body["max_tokens"]):
            with self.lock:
                if self.is_over:
                    return
                growing = growing or self.decoder.begin(body["prompt"], self.loaded[body["model"]], sampling)
                token = None
                while token is None:
                    token = self.decoder.step(growing)
            yield token
            if token in self.decoder.encoder.stop_ids:
                return


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Vllm

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(200 if self.state.is_well else 503, {})
            return
        if self.path != "/v1/models":
            self._answer(404, {"detail": "Not Found"})
            return
        models = [{"id": name, "object": "model", "max_model_len": MAX_MODEL_LEN} for name in self.state.loaded]
        self._answer(200, {"object": "list", "data": models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.state.asked.append(body)
        if body["model"] not in self.state.loaded:
            self._answer(404, {"error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self._stream(body)
        except OSError:
            self.state.num_left += 1
            self.close_connection = True

    def _stream(self, body: dict[str, Any]) -> None:
        if self.state.stalls_seed is not None and body.get("seed") == self.state.stalls_seed:
            self.state.goes_on.wait()
        for number, token in enumerate(self.state.tokens(body)):
            if number == self.state.breaks_after:
                self.close_connection = True
                return
            text = self.state.decoder.encoder.decode([token])
            tokens = {"token_ids": [token]} if self.state.gives_tokens else {}
            choice = {"index": 0, "text": text, "finish_reason": None} | tokens
            self._event({"choices": [self.state.odd_choice or choice]})
        self._event({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, said: dict[str, Any]) -> None:
        self._chunk(f"data: {json.dumps(said)}\n\n".encode())

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _answer(self, status: int, said: dict[str, Any]) -> None:
        data = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    """Of the default 5 a burst of clients finds no place, and tries again until its time to connect is over."""


@contextlib.contextmanager
def vllm(config: Path) -> Iterator[Vllm]:
    """One that was started with a configuration file, while the block runs."""
    state = Vllm(yaml.safe_load(config.read_text()))
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"state": state}))
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        with state.lock:
            state.is_over = True
