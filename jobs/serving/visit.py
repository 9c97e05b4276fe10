"""One request on its way: what room it takes, and what it is counted as in the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from starlette.requests import Request

from jobs.serving.service import Service

if TYPE_CHECKING:
    from starlette.types import Message, Scope

logger = logging.getLogger("refrain.serve")

GONE = 499
"""Of who hung up before the answer's last byte, for the count alone."""
ANSWERING = ("/v1/chat/completions", "/v1/completions")
SWAPPING = "/v1/adapter"
OPEN = ("/livez", "/readyz", "/metrics")
_KNOWN = (*ANSWERING, SWAPPING, *OPEN, "/v1/models")


class Visit:
    """A request, and what was answered. Routes find it as `request.state.visit`."""

    def __init__(self, service: Service, scope: Scope, send: Callable[[Message], Awaitable[None]]) -> None:
        self.route: str = scope["path"]
        self._service = service
        self._scope = scope
        self._send = send
        self._began = time.monotonic()
        self._said: int | None = None
        self._is_whole = False
        self._failure: int | None = None
        self._num_answers = 0
        scope.setdefault("state", {})["visit"] = self

    @property
    def authorization(self) -> str:
        """The header."""
        return Request(self._scope).headers.get("authorization", "")

    @property
    def has_begun(self) -> bool:
        """Whether the client has been told a status."""
        return self._said is not None

    @property
    def status(self) -> int:
        """What it is counted as: a stream may fail, or be left, after its 200."""
        if self._failure is not None:
            return self._failure
        return self._said if self._said is not None and self._is_whole else GONE

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Have room for an answer while the block runs; RequestError where there is none."""
        gate = self._service.gate
        self.take(1)
        gate.num_requests += 1
        try:
            yield
        finally:
            gate.num_requests -= 1
            gate.num_answers -= self._num_answers

    def take(self, number: int) -> None:
        """Room for so many more answers, until the block of `inside` ends; RequestError where there is none."""
        self._service.gate.take(number)
        self._num_answers += number

    async def send(self, message: Message) -> None:
        """On to the client."""
        if message["type"] == "http.response.start":
            self._said = message["status"]
        await self._send(message)
        self._is_whole = message["type"] == "http.response.body" and not message.get("more_body", False)

    def fail(self, status: int) -> None:
        """Count it as this, whatever the client was told at first."""
        self._failure = status

    def count(self) -> None:
        """Into the metrics and the log; nothing of what was asked."""
        route = self.route if self.route in _KNOWN else "other"
        seconds = time.monotonic() - self._began
        self._service.metrics.requests.labels(route, str(self.status)).inc()
        self._service.metrics.seconds.labels(route).observe(seconds)
        if route not in OPEN:
            logger.info("%s %s %d %.3f s", self._scope["method"], route, self.status, seconds)


def visit_of(request: Request) -> Visit:
    """The visit that a request is."""
    visit: Visit = request.state.visit
    return visit
