"""What a kubelet says about a pod: pure bodies for a strategic-merge patch of its status.

Words, reasons and orders are those of Kubernetes 1.35's pkg/kubelet.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.api import Object

MESSAGE_BYTES = 4096
"""As pkg/kubelet/container/runtime.go: of what is longer, the end is kept."""

_LOST_SECONDS = 60


@dataclass(frozen=True)
class Exit:
    """How a container ended."""

    code: int
    message: str = ""
    reason: str = ""
    pod_reason: str = ""
    """Of the pod's status, as `Evicted`."""

    @property
    def words(self) -> str:
        return self.reason or ("Completed" if self.code == 0 else "Error")


def at(seconds: float) -> str:
    """Seconds since 1970 as Kubernetes writes times."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def cut(message: bytes) -> str:
    return message[-MESSAGE_BYTES:].decode(errors="replace")


def waiting(pod: Object, reason: str = "ContainerCreating", message: str = "", last: Object | None = None) -> Object:
    """Not running: being created, its image not pulled, or about to start again (with its `last` state)."""
    state = {"waiting": {"reason": reason} | ({"message": message} if message else {})}
    phase = "Running" if last else "Pending"
    return _status(pod, phase, _container(pod, state, last=last), sandbox=reason != "ContainerCreating")


def running(pod: Object, ip: str, started: float, *, ready: bool, last: Object | None = None) -> Object:
    container = _container(pod, {"running": {"startedAt": at(started)}}, ready=ready, last=last)
    return _status(pod, "Running", container, ip=ip)


def terminated(exited: Exit, started: float, finished: float) -> Object:
    """The state of a container that has ended."""
    state = {"exitCode": exited.code, "reason": exited.words, "startedAt": at(started), "finishedAt": at(finished)}
    message = cut(exited.message.encode())
    return {"terminated": state | ({"message": message} if message else {})}


def ended(pod: Object, exited: Exit, started: float, finished: float) -> Object:
    """The pod's end: Succeeded or Failed."""
    phase = "Succeeded" if exited.code == 0 else "Failed"
    made = _status(pod, phase, _container(pod, terminated(exited, started, finished)), sandbox=False)
    return made | ({"reason": exited.pod_reason, "message": exited.message} if exited.pod_reason else {})


def never_ran(pod: Object) -> Object:
    """The end of a pod that was deleted before it ran."""
    return _status(pod, "Failed", _container(pod, {"waiting": {"reason": "ContainerCreating"}}), sandbox=False)


def lost(*, reason: str, message: str) -> Object:
    """What the control plane says of a pod whose node is gone: not ready for a minute, and then disrupted."""
    now = time.time()
    target = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
    unready = {"type": "Ready", "status": "False", "reason": None, "message": None}
    conditions = [target | {"lastTransitionTime": at(now)}, unready | {"lastTransitionTime": at(now - _LOST_SECONDS)}]
    return {"phase": "Failed", "conditions": conditions}


def _status(pod: Object, phase: str, container: Object, *, ip: str = "", sandbox: bool = True) -> Object:
    addresses = {"podIP": ip, "podIPs": [{"ip": ip}]} if ip else {}
    return {
        "observedGeneration": pod["metadata"].get("generation", 0),
        "phase": phase,
        "hostIP": "127.0.0.1",
        "hostIPs": [{"ip": "127.0.0.1"}],
        "startTime": pod.get("status", {}).get("startTime") or at(time.time()),
        "conditions": _conditions(pod, phase, container, sandbox=sandbox),
        "containerStatuses": [container],
        **addresses,
    }


def _conditions(pod: Object, phase: str, container: Object, *, sandbox: bool) -> list[Object]:
    words: Object = {"status": "True"}
    if phase in ("Succeeded", "Failed"):
        words = {"status": "False", "reason": {"Succeeded": "PodCompleted", "Failed": "PodFailed"}[phase]}
    elif not container["ready"]:
        name = container["name"]
        words = {
            "status": "False",
            "reason": "ContainersNotReady",
            "message": f"containers with unready status: [{name}]",
        }
    initialized: Object = {"status": "True"} | ({"reason": "PodCompleted"} if phase == "Succeeded" else {})
    made = {
        "PodReadyToStartContainers": {"status": str(sandbox)},
        "Initialized": initialized,
        "Ready": words,
        "ContainersReady": words,
    }
    return [_dated(pod, {"type": kind, "reason": None, "message": None, **body}) for kind, body in made.items()]


def _dated(pod: Object, condition: Object) -> Object:
    """With the time since when it says so."""
    for former in pod.get("status", {}).get("conditions", []):
        if former["type"] == condition["type"] and former["status"] == condition["status"]:
            return condition | {"lastTransitionTime": former["lastTransitionTime"]}
    return condition | {"lastTransitionTime": at(time.time())}


def _container(pod: Object, state: Object, *, ready: bool = False, last: Object | None = None) -> Object:
    spec = pod["spec"]["containers"][0]
    former = (pod.get("status", {}).get("containerStatuses") or [{}])[0]
    restarts = former.get("restartCount", 0) + (
        1 if "running" in state and last and "waiting" in former["state"] else 0
    )
    began = "waiting" not in state
    return {
        "name": spec["name"],
        "image": spec["image"],
        "imageID": f"played://{spec['image']}" if began else "",
        "containerID": f"played://{pod['metadata']['uid']}/{restarts}" if began else "",
        "ready": ready,
        "started": "running" in state,
        "restartCount": restarts,
        "state": state,
        "lastState": last or {},
    }
