"""A controller that is killed at each of its writes and started again whenever it has died."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import children
from cluster.api_harms import kill_after, kill_before
from controller_process import Operator

if TYPE_CHECKING:
    from cluster.api_proxy import ApiAnswer, ApiProxy, ApiRequest


def _serve(arguments: list[str], log: str, kubeconfig: str) -> None:
    """The controller, in a process that has been forked."""
    from controller.command import command

    os.environ["KUBECONFIG"] = kubeconfig
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    command.main(args=arguments, standalone_mode=False)


@dataclass
class Undead(Operator):
    """A controller that is started again whenever it dies."""

    num_starts: int = 0
    _over: threading.Event = field(default_factory=threading.Event)
    _keeper: threading.Thread | None = None
    _child: Any = None
    on_start: Callable[[int], object] = lambda _pid: None

    def keep(self) -> None:
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def _keep(self) -> None:
        while not self._over.is_set():
            arguments = self.arguments()
            self._child = children.begun(_serve, arguments, str(self.folder / "controller.log"), str(self.kubeconfig))
            self.num_starts += 1
            self.on_start(self._child.pid)
            while self._child.is_alive() and not self._over.wait(0.02):
                pass
        self._child.kill()
        self._child.join()

    def kill(self) -> None:
        self._over.set()
        if self._keeper is not None:
            self._keeper.join()


class Reaper:
    """Kills at each write that was not harmed in both ways yet."""

    def __init__(self) -> None:
        self.harmed: dict[str, int] = {}
        self._lock = threading.Lock()

    def __call__(self, proxy: ApiProxy, request: ApiRequest) -> ApiAnswer | None:
        key = f"{request} {_told(request.body)}"
        with self._lock:
            count = self.harmed[key] = self.harmed.get(key, 0) + 1
        if count > 2:
            return proxy.forward(request)
        return (kill_before if count == 1 else kill_after)(proxy, request)

    @property
    def num_kills(self) -> int:
        return sum(min(count, 2) for count in self.harmed.values())

    def __str__(self) -> str:
        return f"killed {self.num_kills} times at {len(self.harmed)} writes"


_CHANGING = re.compile(r'"(resourceVersion|startedAt|completedAt|lastTransitionTime|jobUid)": ?"[^"]*",?')


def _told(body: bytes) -> str:
    """What a write says, but for times and versions."""
    return hashlib.sha256(_CHANGING.sub("", json.dumps(json.loads(body or b"{}"), sort_keys=True)).encode()).hexdigest()
