"""What the kubelet that tests play says of a Job is what a real one says: the same scenarios on both, compared."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from cluster.jobs import POLICY, job
from cluster.outcomes import Play

from e2e import kube

if TYPE_CHECKING:
    from cluster.api import Object
    from cluster.control_plane import ControlPlane
    from cluster.kubelet import Kubelet

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
Kubectl = Callable[..., str]
LOG = "/dev/termination-log"
SEEN = "refrain.dev/seen"
SAVES = """
    import signal, sys, time
    def save(*_):
        open(sys.argv[1], "w").write("saved")
        sys.exit(143)
    signal.signal(signal.SIGTERM, save)
    time.sleep(200)
"""
FAILS = """
    import sys
    open(sys.argv[1], "w").write("x" + "y" * 4096)
    sys.exit(int(sys.argv[2]))
"""

FAILS_AS_THE_SECOND = """
    import os, sys
    sys.exit(65 * int(os.environ["JOB_COMPLETION_INDEX"]))
"""


def evict(kubectl: Kubectl, namespace: str, pod: str) -> None:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
    kubectl("create", "--raw", path, "--filename=-", stdin=json.dumps(body))


def delete(kubectl: Kubectl, namespace: str, pod: str) -> None:
    kubectl("delete", "pod", pod, "--namespace", namespace, "--wait=false")


def suspend(kubectl: Kubectl, namespace: str, pod: str) -> None:
    patch = json.dumps({"spec": {"suspend": True}})
    kubectl("patch", "job", "scenario", "--namespace", namespace, "--type=merge", f"--patch={patch}")


SCENARIOS: dict[str, tuple[str, list[str], Callable[..., None] | None]] = {
    "it ends well": ("open(__import__('sys').argv[1], 'w').write('done')", [LOG], None),
    "a permanent error": (FAILS, [LOG, "65"], None),
    "an error that may pass": (FAILS, [LOG, "75"], None),
    "evicted": (SAVES, [LOG], evict),
    "deleted by hand": (SAVES, [LOG], delete),
    "deaf to SIGTERM, and deleted": ("import time; time.sleep(200)", [], delete),
    "suspended": (SAVES, [LOG], suspend),
    "one of two shares fails for good": (FAILS_AS_THE_SECOND, [], None),
}
SHARES: Object = {
    "completions": 2,
    "parallelism": 2,
    "completionMode": "Indexed",
    "backoffLimit": 2,
    "backoffLimitPerIndex": 1,
    "maxFailedIndexes": 1,
    "podFailurePolicy": {
        "rules": [POLICY["rules"][0], {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [65]}}]
    },
}
"""As `evaluate` is shared out."""
SPECS = {"one of two shares fails for good": SHARES}
"""What differs from a Job of one pod."""


@pytest.fixture
def real() -> Iterator[tuple[Kubectl, str]]:
    kube.kubectl("create", "namespace", "job-statuses")
    while not kube.kubectl("get", "serviceaccount", "default", "--namespace=job-statuses", check=False):
        time.sleep(0.2)
    yield kube.kubectl, "job-statuses"
    kube.kubectl("delete", "namespace", "job-statuses", "--wait", "--timeout=60s")


@pytest.fixture
def played(control_plane: ControlPlane, kubelet: Kubelet, namespace: str) -> tuple[Kubectl, str]:
    def kubectl(*arguments: object, stdin: str | None = None) -> str:
        return control_plane.kubectl(*arguments, input=stdin).stdout

    return kubectl, namespace


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_played_kubelet_says_what_a_real_one_says(
    real: tuple[Kubectl, str], played: tuple[Kubectl, str], scenario: str
) -> None:
    assert outcome(*played, scenario) == outcome(*real, scenario)


def outcome(kubectl: Kubectl, namespace: str, scenario: str) -> dict[str, Any]:
    """What a Job and its pod say at the end of a scenario, without times and names."""
    program, arguments, harm = SCENARIOS[scenario]
    document = job("scenario", program, args=arguments, image=f"{kube.REGISTRY}/refrain-controller:0.1.0")
    document["spec"] |= {"podFailurePolicy": POLICY, "completions": 1, "parallelism": 1} | SPECS.get(scenario, {})
    document["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 2
    document["spec"]["template"]["metadata"] = {"finalizers": [SEEN]}  # so that one which is deleted stays to be seen
    kubectl("create", "--namespace", namespace, "--filename=-", stdin=json.dumps(document))
    if harm:
        pod = wait(lambda: running(kubectl, namespace))
        time.sleep(1)  # until the program hears signals
        harm(kubectl, namespace, pod["metadata"]["name"])
    if harm is evict:  # it is replaced, at no cost
        evicted = pod["metadata"]["name"]
        wait(lambda: (running(kubectl, namespace) or pod)["metadata"]["name"] != evicted)
        suspend(kubectl, namespace, "")
    wait(lambda: settled(kubectl, namespace))
    found = json.loads(kubectl("get", "job", "scenario", "--namespace", namespace, "--output=json"))["status"]
    conditions = {(one["type"], one["status"], one.get("reason", "")) for one in found.get("conditions", [])}
    counts = {name: found.get(name, 0) for name in ("active", "succeeded", "failed", "ready", "terminating")}
    indexes = {name: found.get(name, "") for name in ("completedIndexes", "failedIndexes")}
    ends = [terminated(pod) for pod in pods(kubectl, namespace) if pod["status"]["phase"] in ("Succeeded", "Failed")]
    ends.sort(key=lambda end: int(end["exitCode"]))  # those of one moment are in no order
    for pod in pods(kubectl, namespace):
        let_go(kubectl, namespace, pod)
    return {"conditions": conditions, "counts": counts, "indexes": indexes, "pods": ends}


def let_go(kubectl: Kubectl, namespace: str, pod: Object) -> None:
    patch = json.dumps({"metadata": {"$deleteFromPrimitiveList/finalizers": [SEEN]}})
    name = pod["metadata"]["name"]
    kubectl("patch", "pod", name, "--namespace", namespace, "--type=strategic", f"--patch={patch}")


def test_an_image_that_cannot_be_pulled_waits_alike(
    real: tuple[Kubectl, str], played: tuple[Kubectl, str], kubelet: Kubelet
) -> None:
    kubelet.rule = lambda _: Play(pull_error="no such image")
    assert waits(*played) == waits(*real) == ("Pending", "ImagePullBackOff", 1, None)


def waits(kubectl: Kubectl, namespace: str) -> tuple[str, str, int, list[Object] | None]:
    """A pod's phase and reason once its image has been tried again, and what its Job makes of it."""
    document = job("scenario", "", image=f"{kube.REGISTRY}/there-is-no-such-image:1")
    kubectl("create", "--namespace", namespace, "--filename=-", stdin=json.dumps(document))

    def has_been_tried() -> tuple[str, str] | None:
        pod = next(iter(pods(kubectl, namespace)), {"status": {}})
        reasons = [one["state"].get("waiting", {}).get("reason", "") for one in statuses(pod)]
        is_first = not reasons or reasons[0] in ("ContainerCreating", "ErrImagePull")
        return None if is_first else (pod["status"]["phase"], reasons[0])

    phase, reason = wait(has_been_tried)
    status = json.loads(kubectl("get", "job", "scenario", "--namespace", namespace, "--output=json"))["status"]
    return phase, reason, status["active"], status.get("conditions")


def statuses(pod: Object) -> list[Object]:
    """Of its containers; none before the kubelet has seen it."""
    return list(pod["status"].get("containerStatuses", []))


def pods(kubectl: Kubectl, namespace: str) -> list[Object]:
    found = json.loads(kubectl("get", "pods", "--namespace", namespace, "--output=json"))["items"]
    return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


def running_state(pod: Object) -> bool:
    return any("running" in one["state"] for one in statuses(pod))


def running(kubectl: Kubectl, namespace: str) -> Object | None:
    return next((pod for pod in pods(kubectl, namespace) if running_state(pod)), None)


def settled(kubectl: Kubectl, namespace: str) -> bool:
    """Whether the Job has ended, or is suspended and knows that its pods are gone."""
    status = json.loads(kubectl("get", "job", "scenario", "--namespace", namespace, "--output=json"))["status"]
    conditions = {one["type"]: one["status"] for one in status.get("conditions", [])}
    if conditions.get("Complete") == "True" or conditions.get("Failed") == "True":
        return True
    are_gone = not status.get("active") and not status.get("terminating") and not left(kubectl, namespace)
    return conditions.get("Suspended") == "True" and are_gone


def left(kubectl: Kubectl, namespace: str) -> list[Object]:
    """Pods that have not ended."""
    return [pod for pod in pods(kubectl, namespace) if pod["status"]["phase"] not in ("Succeeded", "Failed")]


def terminated(pod: Object) -> dict[str, Any]:
    """How a pod has ended."""
    (state,) = (one["state"] for one in statuses(pod))
    ended = state["terminated"]
    disrupted = [one["reason"] for one in pod["status"]["conditions"] if one["type"] == "DisruptionTarget"]
    facts = {name: ended.get(name) for name in ("exitCode", "reason", "message")}
    return {"phase": pod["status"]["phase"], "disrupted": disrupted, **facts}


def wait(condition: Callable[[], Any], seconds: float = 90) -> Any:
    """What it gives once that is true; kubectl is a process each time, so seldom."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, condition
        time.sleep(0.5)
    return found
