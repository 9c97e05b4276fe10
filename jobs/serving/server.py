"""The server's life: it listens at once, loads, answers, and stops without dropping what is under way."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from jobs.contracts.errors import ConfigError
from jobs.serving.app import build
from jobs.serving.assistant import Assistant
from jobs.serving.gate import Keys, Limits, SecretFile
from jobs.serving.service import DEFAULT_QUESTION, Service
from jobs.serving.wanted import Wanted

logger = logging.getLogger("refrain.serve")

_BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where it listens, who may ask, and how it stops."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys_file: Path | None = None
    swap_token_file: Path | None = None
    question: str = DEFAULT_QUESTION
    """What an adapter has to answer before it is in service."""
    refresh_seconds: float = 60.0
    """Between two looks for a newer index, erased mail and a newer record; 0: never."""
    drain_seconds: float = 0.0
    """How long it still takes new requests after SIGTERM, until no balancer sends any."""
    grace_seconds: float = 60.0
    """How long answers under way may then take."""


def serve(wanted: Wanted, settings: ServerSettings, limits: Limits) -> None:
    """Serve until told to stop. Raises what opening raises, and ConfigError where it cannot listen."""
    keys = Keys(_secrets(settings.api_keys_file), _secrets(settings.swap_token_file))
    with (
        _listening(settings.host, settings.port) as listener,
        Assistant(wanted, max_active=limits.max_active) as assistant,
    ):
        service = Service(assistant, limits, keys, question=settings.question)
        asyncio.run(_Life(service, settings).lived(listener))


def _secrets(path: Path | None) -> SecretFile | None:
    return None if path is None else SecretFile(path)


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    is_v6 = ":" in host
    try:
        listener = socket.create_server(
            (host, port),
            family=socket.AF_INET6 if is_v6 else socket.AF_INET,
            backlog=_BACKLOG,
            dualstack_ipv6=is_v6 and host == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        raise ConfigError(
            f"cannot listen: {error.strerror or error}", where=f"{host}:{port}", hint="name another --port or --host"
        ) from error
    with listener:
        yield listener


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to us: it would end by them, and not with exit code 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None."""
        yield


class _Life:
    """One run of the server."""

    def __init__(self, service: Service, settings: ServerSettings) -> None:
        self._service = service
        self._settings = settings
        self._failure: BaseException | None = None
        self._stopped = threading.Event()
        config = uvicorn.Config(
            build(service),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=max(1, round(settings.grace_seconds)),
        )
        self._server = _Server(config)

    async def lived(self, listener: socket.socket) -> None:
        """Listen, load, answer, stop. Raises what went wrong while loading."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop_gently)
        loop.add_signal_handler(signal.SIGINT, self._stop)
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        logger.info("listening on http://%s:%d", shown, port)
        threading.Thread(target=self._work, args=(loop,), name="loader", daemon=True).start()
        await self._server.serve(sockets=[listener])
        self._stopped.set()
        if self._failure is not None:
            raise self._failure

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """Load; then look for what is newer, again and again."""
        try:
            self._service.open()
        except BaseException as error:  # noqa: BLE001 - it ends the server, with its exit code
            if not self._stopped.is_set():
                self._failure = error
                loop.call_soon_threadsafe(self._stop)
            return
        logger.info("ready")
        while self._settings.refresh_seconds and not self._stopped.wait(self._settings.refresh_seconds):
            self._service.refresh()

    def _stop_gently(self) -> None:
        """Not ready from now on; new requests are taken a while longer, for balancers hear of it late."""
        if self._service.is_draining:
            return
        logger.info("told to stop: %d requests under way", self._service.gate.num_requests)
        self._service.is_draining = True
        asyncio.get_running_loop().call_later(self._settings.drain_seconds, self._stop)

    def _stop(self) -> None:
        """Take no more requests, and end when those under way have."""
        self._service.is_draining = True
        if self._server.should_exit:  # the second Ctrl-C
            self._server.force_exit = True
        self._server.should_exit = True
