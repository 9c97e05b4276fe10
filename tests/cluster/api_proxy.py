"""A proxy between a client and the API server: it numbers the client's writes, and can do harm to each of them.

    with api_proxied(control_plane) as proxy:
        kubeconfig = proxy.kubeconfig(namespace, "controller")
        proxy.harms[3] = api_harms.kill_after
        proxy.victim = process.pid

It shows the API server's own certificate. Reads pass; watches pass event by event, and can be thinned, held and cut.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

if TYPE_CHECKING:
    from cluster.api import Object
    from cluster.control_plane import ControlPlane

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "te", "upgrade", "host"}
_VICTIM_SECONDS = 60
_UNCOUNTED = {"events", "selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews", "tokenreviews"}


@dataclass
class ApiRequest:
    """A request as it came in."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    number: int = 0
    """Of the write, from 1."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.path).path.strip("/").split("/")
        rest = parts[3:] if parts[0] == "apis" else parts[2:]
        self.namespace = ""
        if rest[0:1] == ["namespaces"] and len(rest) > 2:
            self.namespace, rest = rest[1], rest[2:]
        self.resource, self.name, self.subresource = (*rest, "", "", "")[:3]

    @property
    def query(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}

    @property
    def is_write(self) -> bool:
        return self.method not in ("GET", "HEAD", "OPTIONS")

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch", "").lower() in ("1", "true")

    def __str__(self) -> str:
        what = "/".join(filter(None, [self.resource, self.name, self.subresource]))
        return f"{self.method} {what}"


@dataclass
class ApiAnswer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


Harm = Callable[["ApiProxy", ApiRequest], ApiAnswer | None]
"""Takes the place of forwarding; None closes the connection without an answer."""


@dataclass(eq=False)
class LiveWatch:
    """A watch that is open."""

    request: ApiRequest
    stream: socket.socket
    """From the API server."""
    last_words: Object | None = None
    """An event that is told to the client when it is cut."""
    ended: threading.Event = field(default_factory=threading.Event)

    def cut(self) -> None:
        with contextlib.suppress(OSError):
            self.stream.shutdown(socket.SHUT_RDWR)


GONE: Object = {
    "type": "ERROR",
    "object": {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "too old resource version: 1 (2)",
        "reason": "Expired",
        "code": 410,
    },
}


@dataclass
class ApiProxy:
    """Forwards all requests; counts those that change something, and does harm to those named."""

    control_plane: ControlPlane
    port: int = 0
    harms: dict[int, Harm] = field(default_factory=dict)
    """By number of the write."""
    every_write: Harm | None = None
    every_read: Harm | None = None
    """Also of watches."""
    counts: Callable[[ApiRequest], bool] = lambda request: request.resource not in _UNCOUNTED
    """Which writes are counted; the others pass unharmed."""
    drops: Callable[[ApiRequest, Object], bool] | None = None
    """Given a watch and an event: whether the client never hears of it. Bookmarks pass."""
    writes: list[str] = field(default_factory=list)
    """`METHOD resource/name/subresource` of each write so far."""
    victim: int | None = None
    """The process that `kill_before` and `kill_after` kill."""
    watches: list[LiveWatch] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    _open: threading.Event = field(default_factory=threading.Event)
    """Whether reads go on."""
    _over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._open.set()
        self._context = ssl.create_default_context(cafile=str(self.control_plane.ca))

    # ---- what tests do

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def kubeconfig(self, namespace: str, name: str = "default") -> Path:
        """A service account's, through the proxy."""
        from cluster.control_plane import write_kubeconfig

        token = self.control_plane.service_account_token(namespace, name)
        path = self.control_plane.folder / f"proxy-{self.port}-{namespace}-{name}.kubeconfig"
        return write_kubeconfig(path, self.server, token, self.control_plane.ca, namespace)

    def reset(self) -> None:
        """Count from 1 again, and do no harm."""
        with self.lock:
            self.writes.clear()
            self.harms.clear()
        self.every_write = self.every_read = self.drops = self.victim = None
        self.resume()

    def cut_watches(self, *, gone: bool = False, resource: str = "") -> int:
        """Break all open watches, or those of a resource; `gone` tells the client 410 first. Their number."""
        with self.lock:
            found = [watch for watch in self.watches if resource in ("", watch.request.resource)]
        for watch in found:
            watch.last_words = GONE if gone else None
            watch.cut()
        return len(found)

    def pause(self) -> None:
        """Let lists and watches that begin from now on wait until `resume`."""
        self._open.clear()

    def resume(self) -> None:
        self._open.set()

    def close(self) -> None:
        """Let go of all that wait."""
        self._over.set()
        self._open.set()
        self.cut_watches()

    # ---- requests

    def handle(self, request: ApiRequest) -> ApiAnswer | None:
        harm = self.every_read
        if request.is_write:
            if not self.counts(request):
                return self.forward(request)
            with self.lock:
                self.writes.append(str(request))
                request.number = len(self.writes)
                harm = self.harms.get(request.number, self.every_write)
        else:
            self._open.wait()
        return harm(self, request) if harm else self.forward(request)

    def forward(self, request: ApiRequest) -> ApiAnswer | None:
        """The API server's answer; None where it is down. Each has its own connection: nothing is sent twice."""
        connection = self._connect()
        try:
            connection.request(request.method, request.path, request.body or None, _passed_on(request))
            answer = connection.getresponse()
            return ApiAnswer(answer.status, answer.getheaders(), answer.read())
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def open_watch(self, request: ApiRequest) -> tuple[http.client.HTTPResponse, LiveWatch]:
        """A watch's stream, which has a connection of its own."""
        connection = self._connect()
        connection.request("GET", request.path, headers=_passed_on(request))
        stream = connection.sock
        answer = connection.getresponse()
        return answer, LiveWatch(request, stream)

    def kill(self) -> None:
        """SIGKILL the victim, as soon as it is known which process that is."""
        deadline = time.monotonic() + _VICTIM_SECONDS
        while self.victim is None:
            if time.monotonic() > deadline:
                raise RuntimeError("no victim was named")
            time.sleep(0.001)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.victim, signal.SIGKILL)

    def wait(self, seconds: float) -> None:
        """Until that time has passed, or the proxy is closed."""
        self._over.wait(seconds)

    def _connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.control_plane.port, context=self._context)


def _passed_on(request: ApiRequest) -> dict[str, str]:
    kept = {name: value for name, value in request.headers if name.lower() not in _HOP_BY_HOP}
    return {name: value for name, value in kept.items() if not request.is_watch or name.lower() != "accept-encoding"}


_REASONS = {
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


def failure(code: int, reason: str = "", message: str = "by the test's proxy", retry_seconds: int = 1) -> ApiAnswer:
    """An error as the API server words it; 429 has Retry-After."""
    status: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    status |= {"message": message, "reason": reason or _REASONS.get(code, "Unknown"), "code": code}
    headers = [("Content-Type", "application/json")]
    if code == 429:
        headers.append(("Retry-After", str(retry_seconds)))
        status["details"] = {"retryAfterSeconds": retry_seconds}
    return ApiAnswer(code, headers, json.dumps(status).encode())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: ApiProxy

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = ApiRequest(self.command, self.path, list(self.headers.items()), body)
        if request.is_watch and self.proxy.every_read is None:
            self.proxy._open.wait()
            self._watch(request)
        else:
            self._answer(self.proxy.handle(request))

    def _answer(self, answered: ApiAnswer | None) -> None:
        if answered is None:
            self.close_connection = True
            return
        self.send_response_only(answered.status)
        for name, value in answered.headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answered.body)))
        self.end_headers()
        self.wfile.write(answered.body)

    def _watch(self, request: ApiRequest) -> None:
        try:
            answer, watch = self.proxy.open_watch(request)
        except (OSError, http.client.HTTPException):
            self._answer(None)
            return
        if answer.status != 200:
            self._answer(ApiAnswer(answer.status, answer.getheaders(), answer.read()))
            return
        with self.proxy.lock:
            self.proxy.watches.append(watch)
        try:
            self._stream(answer, watch)
        finally:
            with self.proxy.lock:
                self.proxy.watches.remove(watch)
            watch.ended.set()
            watch.cut()
            self.close_connection = True

    def _stream(self, answer: http.client.HTTPResponse, watch: LiveWatch) -> None:
        self.send_response_only(200)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        # When the client goes, the stream behind is ended at once, not at its next event.
        threading.Thread(target=self._wait_for_client, args=(watch,), daemon=True).start()
        with contextlib.suppress(http.client.HTTPException, OSError):
            while line := answer.readline():
                if not self._is_dropped(watch.request, line):
                    self._chunk(line)
        if watch.last_words:
            self._chunk(json.dumps(watch.last_words).encode() + b"\n")
        self._chunk(b"")

    def _wait_for_client(self, watch: LiveWatch) -> None:
        poll = select.poll()
        poll.register(self.connection.fileno(), select.POLLIN | select.POLLHUP)
        while not watch.ended.is_set():
            if poll.poll(200):  # it has nothing to say but that it goes
                watch.cut()
                return

    def _is_dropped(self, request: ApiRequest, line: bytes) -> bool:
        if self.proxy.drops is None:
            return False
        event = json.loads(line)
        return event["type"] in ("ADDED", "MODIFIED", "DELETED") and self.proxy.drops(request, event)

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no error."""


@contextlib.contextmanager
def api_proxied(control_plane: ControlPlane) -> Iterator[ApiProxy]:
    """A proxy in front of the API server, on a loopback port, while the block runs."""
    proxy = ApiProxy(control_plane)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": proxy}))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(control_plane.ca, control_plane.key)
    # The handshake is left to the first read, in the connection's own thread.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    proxy.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        server.shutdown()
        server.socket.close()
        thread.join()


@pytest.fixture
def api_proxy(control_plane: ControlPlane) -> Iterator[ApiProxy]:
    """A proxy in front of the API server."""
    with api_proxied(control_plane) as running:
        yield running
