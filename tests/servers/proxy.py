"""A proxy in front of an S3 server that numbers the writes and can do harm to each of them."""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest

if TYPE_CHECKING:
    from servers.s3 import S3Server

_HOP_BY_HOP = {"connection", "expect", "keep-alive", "transfer-encoding", "content-length"}
_VICTIM_SECONDS = 60


@dataclass
class Request:
    """A request as it came in, and its answer from the server behind."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def is_conditional(self) -> bool:
        return any(name.lower() == "if-none-match" for name, _ in self.headers)


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    cut_at: int | None = None
    """Bytes of the body after which the connection breaks."""


Harm = Callable[["FaultProxy", Request], Answer | None]
"""Takes the place of forwarding; None closes the connection without an answer."""


@dataclass
class FaultProxy:
    """Forwards all requests; counts those that change something, from 1, and does harm to those named.

    The start-up probe's are not counted, for they come in no fixed order.
    """

    server: S3Server
    """The server as its clients see it: through the proxy."""
    behind: S3Server
    """The server itself."""
    harms: dict[int, Harm] = field(default_factory=dict)
    """By number of the write."""
    every_write: Harm | None = None
    every_read: Harm | None = None
    writes: list[str] = field(default_factory=list)
    """`METHOD key` of each write so far."""
    victim: int | None = None
    """The process that `kill_before` and `kill_after` kill."""
    committed: set[str] = field(default_factory=set)
    """Paths that `race` has let through."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def client(self) -> Any:
        """A client of the server behind."""
        return self.behind.client()

    def handle(self, request: Request) -> Answer | None:
        harm = self.every_read
        if request.method not in ("GET", "HEAD"):
            if "/probe/" in request.path and self.every_write is None:
                return self.forward(request)
            with self.lock:
                self.writes.append(f"{request.method} {urlsplit(request.path).path}")
                harm = self.harms.get(len(self.writes), self.every_write)
        return harm(self, request) if harm else self.forward(request)

    def forward(self, request: Request) -> Answer:
        """Send a request on, headers unchanged (they are signed), and fetch the answer."""
        connection = http.client.HTTPConnection(urlsplit(self.behind.endpoint).netloc, timeout=60)
        try:
            connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers:
                if name.lower() not in _HOP_BY_HOP:
                    connection.putheader(name, value)
            if request.body or request.method in ("PUT", "POST"):
                connection.putheader("Content-Length", str(len(request.body)))
            connection.endheaders(request.body)
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())
        finally:
            connection.close()

    def put_without_condition(self, request: Request) -> Answer:
        """Carry out a conditional write as a plain one; signed anew, since the condition is part of the signature."""
        bucket, _, key = unquote(request.path).lstrip("/").partition("/")
        prefix = "x-amz-meta-"
        metadata = {n.lower().removeprefix(prefix): v for n, v in request.headers if n.lower().startswith(prefix)}
        done = self.client.put_object(Bucket=bucket, Key=key, Body=request.body, Metadata=metadata)
        return Answer(200, [("ETag", done["ETag"])], b"")

    def kill(self) -> None:
        """SIGKILL the victim, as soon as it is known which process that is."""
        deadline = time.monotonic() + _VICTIM_SECONDS
        while self.victim is None:
            if time.monotonic() > deadline:
                raise RuntimeError("no victim was named")
            time.sleep(0.001)
        os.kill(self.victim, signal.SIGKILL)


def kill_before(proxy: FaultProxy, request: Request) -> None:
    """The writer dies, its request is never carried out."""
    proxy.kill()


def kill_after(proxy: FaultProxy, request: Request) -> None:
    """The request is carried out, then the writer dies."""
    proxy.forward(request)
    proxy.kill()


def lose_answer(proxy: FaultProxy, request: Request) -> None:
    """The request is carried out, its answer never arrives."""
    proxy.forward(request)


def lose_request(proxy: FaultProxy, request: Request) -> None:
    """The request is not carried out, and there is no answer."""


def answer_after_commit(status: int, code: str) -> Harm:
    """The request is carried out, and an error is answered."""

    def harm(proxy: FaultProxy, request: Request) -> Answer:
        proxy.forward(request)
        return _error(status, code)

    return harm


def answer(status: int, code: str) -> Harm:
    """An error is answered, the request is not carried out."""

    def harm(proxy: FaultProxy, request: Request) -> Answer:
        return _error(status, code)

    return harm


def ignore_condition(proxy: FaultProxy, request: Request) -> Answer:
    """A server that does not know conditional writes, and says 200."""
    return proxy.put_without_condition(request) if request.is_conditional else proxy.forward(request)


def race(proxy: FaultProxy, request: Request) -> Answer:
    """A server that looks first and writes then, with nothing to hold the others off in between."""
    if not request.is_conditional:
        return proxy.forward(request)
    there = request.path in proxy.committed
    time.sleep(0.05)
    if there:
        return _error(412, "PreconditionFailed")
    proxy.committed.add(request.path)
    return proxy.put_without_condition(request)


def overwrite(proxy: FaultProxy, request: Request) -> Answer:
    """A server that tells all but the first that the key is there, and writes what they brought all the same."""
    if not request.is_conditional:
        return proxy.forward(request)
    with proxy.lock:
        there = request.path in proxy.committed
        proxy.committed.add(request.path)
        answered = proxy.put_without_condition(request)
    return _error(412, "PreconditionFailed") if there else answered


def cut_body(proxy: FaultProxy, request: Request) -> Answer:
    """The connection breaks in the middle of the answer's body, where that is longer than a few bytes."""
    answered = proxy.forward(request)
    if len(answered.body) > 100_000:
        answered.cut_at = len(answered.body) // 2
    return answered


def _error(status: int, code: str) -> Answer:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>by the test's proxy</Message></Error>".encode()
    return Answer(status, [("Content-Type", "application/xml")], body)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answered = self.proxy.handle(Request(self.command, self.path, list(self.headers.items()), body))
        if answered is None:
            self.close_connection = True
            return
        self.send_response_only(answered.status)
        for name, value in answered.headers:
            if name.lower() not in _HOP_BY_HOP or (self.command == "HEAD" and name.lower() == "content-length"):
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(answered.body)))
        self.end_headers()
        if answered.cut_at is not None:
            self.close_connection = True
        self.wfile.write(answered.body[: answered.cut_at])

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no error."""


@contextmanager
def proxied(server: S3Server) -> Iterator[FaultProxy]:
    """A proxy in front of a server, on a loopback port, while the block runs."""
    proxy = FaultProxy(server, server)
    _ = proxy.client  # made here, since making clients is not safe in threads
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    http_server = _Server(("127.0.0.1", 0), handler)
    proxy.server = replace(server, endpoint=f"http://127.0.0.1:{http_server.server_address[1]}")
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        http_server.shutdown()
        http_server.server_close()
        thread.join()


@pytest.fixture
def proxy(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy in front of each S3 server, with the environment pointing to the proxy."""
    with proxied(s3_server) as running_proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running_proxy.server.endpoint)
        yield running_proxy
