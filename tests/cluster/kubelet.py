"""A node for tests whose kubelet is played: pods run as local processes, or as the test says.

`kubelet.rule` says for each pod whether it is a process (`Run`) or a play (`Play`). All else is as on a
real node: phases, states and conditions, termination messages, SIGTERM and the grace at a deletion.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster import pod_status
from cluster.api import ApiError, Watch
from cluster.outcomes import Play, PlayedContainer, Rule, Run
from cluster.pod_player import PodPlayer, new_address
from cluster.pod_process import PodProcess
from cluster.pod_status import Exit

if TYPE_CHECKING:
    from cluster.api import Object
    from cluster.control_plane import ControlPlane

GPU = "nvidia.com/gpu"
__all__ = ["GPU", "Exit", "Kubelet", "Play", "Run"]


class Kubelet:
    """A node and its pods."""

    def __init__(self, control_plane: ControlPlane, name: str, folder: Path) -> None:
        self.control_plane = control_plane
        self.api = control_plane.user("kubelet")
        self.node = name
        self.folder = folder
        self.rule: Rule = lambda pod: Run()
        self.env: dict[str, str] = {}
        """Of every process, over what the pod says."""
        self.backdate_seconds = 0.0
        """Containers are said to have ended so long ago: the Job controller's back-off (10 s, 20 s …) starts there."""
        self.errors: list[str] = []
        """What has gone wrong in playing."""
        self._players: dict[str, PodPlayer] = {}
        self._watch = Watch(self.api, "v1/Pod", fields=f"spec.nodeName={name}")
        self._thread = threading.Thread(target=self._follow, name=f"kubelet {name}", daemon=True)
        self._gpus = 0

    # ---- what tests do

    def offer_gpus(self, number: int) -> None:
        """Let the node have so many `nvidia.com/gpu`."""
        self._gpus = number
        resources = {GPU: str(number)}
        body = {"status": {"capacity": resources, "allocatable": resources}}
        self.api.patch("v1/Node", self.node, None, body, subresource="status")

    def evict(self, namespace: str, name: str) -> None:
        """By the Eviction API, as `kubectl drain` does: DisruptionTarget, then a deletion with its grace."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}}
        self.api.request("POST", self.api.path("v1/Pod", namespace, name, "eviction"), body)

    def finish(self, namespace: str, name: str, exit_code: int = 0, message: str = "", reason: str = "") -> None:
        """End a pod that is played."""
        container = self._player(namespace, name).container
        assert isinstance(container, PlayedContainer), f"{name} is a process"
        container.finish(Exit(exit_code, message, reason))

    def pid(self, namespace: str, name: str) -> int:
        """The process of a pod that runs."""
        container = self._player(namespace, name).container
        assert isinstance(container, PodProcess), f"{name} is no process"
        return container.pid

    def log(self, namespace: str, name: str) -> str:
        """What a pod's process has written."""
        path = self.folder / namespace / name / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def node_gone(self, *, cut_off: bool = False) -> None:
        """The machine is lost, and its pods are collected as the pod garbage collector does after a minute.

        With `cut_off`, its processes run on.
        """
        for player in self._players.values():
            player.abandon(kill=not cut_off)
        self.api.delete("v1/Node", self.node)
        for pod in self._pods():
            if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
                status = pod_status.lost(reason="DeletionByPodGC", message="PodGC: node no longer exists")
                self._force_out(pod, status)
            self._force_out(pod)

    def node_back(self) -> None:
        """A machine of that name joins again, with no pods."""
        self._register()

    # ---- its life

    def start(self) -> None:
        self._register()
        self._thread.start()

    def stop(self) -> None:
        """End all processes, and leave nothing on the API server."""
        self._watch.stop()
        self._thread.join(10)
        for player in self._players.values():
            player.abandon()
        with contextlib.suppress(ApiError):
            self.api.delete("v1/Node", self.node)
        for pod in self._pods():
            self._force_out(pod)
        for player in self._players.values():
            player.join(10)

    def rule_for(self, pod: Object) -> Run | Play:
        """What a pod is; those of tests that are over never start."""
        is_over = pod["metadata"]["namespace"] in self.control_plane.leaving
        return Play(never_starts=True) if is_over else self.rule(pod)

    def _register(self) -> None:
        labels = {"kubernetes.io/hostname": self.node, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        self.api.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node, "labels": labels}})
        resources = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "4Ti", "pods": "250"}
        if self._gpus:
            resources[GPU] = str(self._gpus)
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "the test says so"}
        now = pod_status.at(time.time())
        status = {
            "capacity": resources,
            "allocatable": resources,
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "conditions": [{**ready, "lastHeartbeatTime": now, "lastTransitionTime": now}],
        }
        self.api.patch("v1/Node", self.node, None, {"status": status}, subresource="status")

    def _follow(self) -> None:
        for kind, pod in self._watch:
            uid = pod["metadata"]["uid"]
            try:
                self._note(uid, kind, pod)
            except Exception:  # noqa: BLE001 - told at the test's end
                self.errors.append(traceback.format_exc())

    def _note(self, uid: str, kind: str, pod: Object) -> None:
        player = self._players.get(uid)
        if kind == "DELETED":
            if player:
                player.abandon()
            return
        if player is None:
            if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
                return
            player = self._players[uid] = PodPlayer(self, pod, new_address())
            player.start()
        player.note(pod)

    def _player(self, namespace: str, name: str) -> PodPlayer:
        for player in reversed(self._players.values()):
            if (player.namespace, player.name_) == (namespace, name):
                return player
        raise AssertionError(f"no pod {namespace}/{name} on {self.node}")

    def _pods(self) -> list[Object]:
        return self.api.list("v1/Pod", fields=f"spec.nodeName={self.node}")

    def _force_out(self, pod: Object, status: Object | None = None) -> None:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        with contextlib.suppress(ApiError):
            if status:
                self.api.patch("v1/Pod", name, namespace, {"status": status}, subresource="status", patch="strategic")
            else:
                self.api.delete("v1/Pod", name, namespace, grace_seconds=0)


_nodes = itertools.count(1)


@pytest.fixture
def kubelet(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    """A node for the test, the only one; pods are real processes unless the test sets another rule."""
    running = Kubelet(control_plane, f"node-{next(_nodes)}", tmp_path_factory.mktemp("kubelet"))
    running.start()
    try:
        yield running
    finally:
        running.stop()
    assert not running.errors, "\n".join(running.errors)
