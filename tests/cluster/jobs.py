"""Jobs for tests of the control plane."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from cluster.api import wait_for

if TYPE_CHECKING:
    from cluster.api import Object
    from cluster.control_plane import ControlPlane

POLICY: Object = {
    "rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [65]}},
    ]
}


def job(name: str, program: str = "", **pod: Any) -> Object:
    """A Job whose container runs a Python program; `pod` goes into its container."""
    container = {"name": "main", "image": "none", "command": ["python", "-c", textwrap.dedent(program)], **pod}
    template = {"restartPolicy": "Never", "containers": [container], "terminationGracePeriodSeconds": 5}
    spec = {"backoffLimit": 0, "podReplacementPolicy": "Failed", "template": {"spec": template}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def pods_of(control_plane: ControlPlane, namespace: str) -> list[Object]:
    """The namespace's pods, the oldest first."""
    found = control_plane.api.list("v1/Pod", namespace)
    return sorted(found, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))


def running_pod(control_plane: ControlPlane, namespace: str) -> Object:
    """A pod, as soon as one runs."""
    return wait_for(lambda: next((pod for pod in pods_of(control_plane, namespace) if "running" in state(pod)), None))


def ends(control_plane: ControlPlane, namespace: str, name: str) -> Object:
    """The condition with which a Job ends."""

    def end() -> Object | None:
        conditions = control_plane.api.get("batch/v1/Job", name, namespace)["status"].get("conditions", [])
        return next((item for item in conditions if item["type"] in ("Complete", "Failed")), None)

    return wait_for(end, what=f"job {name} ends")


def state(pod: Object) -> Object:
    """Of the pod's container; {} before the kubelet has seen it."""
    return pod["status"].get("containerStatuses", [{"state": {}}])[0]["state"]
