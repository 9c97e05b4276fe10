"""What becomes of a pod: its real command is run, or the test says what it does."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.pod_process import CannotStartError
from cluster.pod_status import Exit

if TYPE_CHECKING:
    from cluster.api import Object

TERMINATED = Exit(143)


@dataclass(frozen=True)
class Run:
    """The pod's real command, with more variables. As process 1 of a container it must handle SIGTERM."""

    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Play:
    """No process: what a pod does that the test invents."""

    exit_code: int = 0
    message: str = ""
    """The termination message; its last 4096 bytes are kept."""
    seconds: float = 0.0
    """How long it runs."""
    hang: bool = False
    """It runs until it is deleted or `Kubelet.finish` ends it."""
    pull_error: str = ""
    """Its image cannot be pulled, and this is why: it waits with ErrImagePull, then with ImagePullBackOff."""
    never_starts: bool = False
    """It stays in ContainerCreating."""
    reason: str = ""
    """Of the end, as `OOMKilled`."""
    ready: bool | None = None
    """None: as its readiness probe says."""
    at_sigterm: Exit = TERMINATED
    stop_seconds: float = 0.0
    """From SIGTERM to the end; where the grace is shorter, it is killed: 137."""
    during: Callable[[Object], contextlib.AbstractContextManager[Any]] | None = None
    """Entered while it runs, given the pod with its status.podIP: a server on that address, for instance."""


Rule = Callable[["Object"], Run | Play]


class PlayedContainer:
    """The container of a pod that is no process."""

    def __init__(self, pod: Object, play: Play) -> None:
        self._pod, self._play = pod, play
        self._over = threading.Event()
        self._exit = Exit(play.exit_code, play.message, play.reason)
        self._until: float | None = None
        self._context = contextlib.ExitStack()

    def start(self, ip: str) -> None:
        if self._play.pull_error:
            raise CannotStartError("ImagePullBackOff", self._play.pull_error)
        if self._play.never_starts:
            raise CannotStartError("ContainerCreating", "")
        if self._play.during:
            self._context.enter_context(self._play.during({**self._pod, "status": {"podIP": ip}}))
        self._until = None if self._play.hang else time.monotonic() + self._play.seconds

    def wait(self, seconds: float | None) -> Exit | None:
        left = None if self._until is None else max(0.0, self._until - time.monotonic())
        waited = min((item for item in (left, seconds) if item is not None), default=None)
        if not self._over.wait(waited) and (self._until is None or time.monotonic() < self._until):
            return None
        self._context.close()
        return self._exit

    def stop(self, grace_seconds: float) -> None:
        is_killed = self._play.stop_seconds > grace_seconds
        self.finish(Exit(137) if is_killed else self._play.at_sigterm, min(grace_seconds, self._play.stop_seconds))

    def kill(self) -> None:
        self.finish(Exit(137))

    def finish(self, exited: Exit, after_seconds: float = 0.0) -> None:
        def end() -> None:
            self._exit = exited
            self._over.set()

        timer = threading.Timer(after_seconds, end)
        timer.daemon = True
        timer.start() if after_seconds else end()
