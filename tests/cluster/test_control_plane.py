"""The control plane: disruptions, scheduling, the audit log, restarts."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster.api import ApiError, wait_for
from cluster.jobs import POLICY, ends, job, pods_of, running_pod, state
from cluster.kubelet import Play, Run

if TYPE_CHECKING:
    from cluster.api import Object
    from cluster.control_plane import ControlPlane
    from cluster.kubelet import Kubelet

pytestmark = pytest.mark.cluster


def test_an_eviction_is_ignored_and_the_pod_replaced(
    control_plane: ControlPlane, kubelet: Kubelet, namespace: str
) -> None:
    kubelet.backdate_seconds = 20
    plays = [Play(hang=True), Play(seconds=0.1, message="done")]
    kubelet.rule = lambda pod: plays.pop(0)
    document = job("evicted")
    document["spec"] |= {"podFailurePolicy": POLICY}
    control_plane.api.create(document, namespace)
    first = running_pod(control_plane, namespace)
    kubelet.evict(namespace, first["metadata"]["name"])
    assert ends(control_plane, namespace, "evicted")["type"] == "Complete"
    ended = [state(pod)["terminated"] for pod in pods_of(control_plane, namespace)]
    assert [item["message"] for item in ended if "message" in item] == ["done"]
    assert "failed" not in control_plane.api.get("batch/v1/Job", "evicted", namespace)["status"]


def test_a_lost_node_is_a_disruption(control_plane: ControlPlane, kubelet: Kubelet, namespace: str) -> None:
    plays: list[Play | Run] = [Run(), Play()]
    kubelet.rule = lambda pod: plays.pop(0)
    document = job("lost", "import time; time.sleep(60)")
    document["spec"] |= {"podFailurePolicy": POLICY}
    control_plane.api.create(document, namespace)
    pod = running_pod(control_plane, namespace)
    pid = kubelet.pid(namespace, pod["metadata"]["name"])
    kubelet.node_gone()
    wait_for(lambda: not _runs(pid))
    kubelet.node_back()
    assert ends(control_plane, namespace, "lost")["type"] == "Complete"
    assert plays == []


def test_a_pod_without_room_says_so_in_the_schedulers_words(
    control_plane: ControlPlane, kubelet: Kubelet, namespace: str
) -> None:
    kubelet.rule = lambda pod: Play()
    document = job("gpu", resources={"limits": {"nvidia.com/gpu": 2}})
    control_plane.api.create(document, namespace)

    def unschedulable() -> str:
        found = [item for pod in pods_of(control_plane, namespace) for item in pod["status"].get("conditions", [])]
        return next((item["message"] for item in found if item.get("reason") == "Unschedulable"), "")

    assert "Insufficient nvidia.com/gpu" in wait_for(unschedulable)
    kubelet.offer_gpus(2)
    assert ends(control_plane, namespace, "gpu")["type"] == "Complete"


def test_the_audit_log_has_every_write_and_what_service_accounts_read(
    control_plane: ControlPlane, namespace: str
) -> None:
    since = control_plane.mark()
    control_plane.apply(
        """
        {apiVersion: v1, kind: ServiceAccount, metadata: {name: robot}}
        ---
        apiVersion: rbac.authorization.k8s.io/v1
        kind: Role
        metadata: {name: robot}
        rules: [{apiGroups: [""], resources: [configmaps], verbs: [create, get]}]
        ---
        apiVersion: rbac.authorization.k8s.io/v1
        kind: RoleBinding
        metadata: {name: robot}
        roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: robot}
        subjects: [{kind: ServiceAccount, name: robot}]
        """,
        namespace,
    )
    robot = control_plane.service_account(namespace, "robot")
    control_plane.wait_for_right(namespace, "robot", "create", "configmaps")
    document: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "made"}}
    robot.create(document, namespace)
    robot.get("v1/ConfigMap", "made", namespace)
    with pytest.raises(ApiError, match=r"robot.* cannot delete resource") as refused:
        robot.delete("v1/ConfigMap", "made", namespace)
    assert refused.value.code == 403
    user = f"system:serviceaccount:{namespace}:robot"
    events = control_plane.audit(since, user=user)
    assert [(event.verb, event.resource, event.name, event.code) for event in events if event.resource] == [
        ("create", "configmaps", "made", 201),
        ("get", "configmaps", "made", 200),
        ("delete", "configmaps", "made", 403),
    ]
    token = next(event for event in control_plane.audit(since, user="admin") if event.subresource)
    assert token.right == ("create", "serviceaccounts/token", "")
    kubeconfig = control_plane.service_account_kubeconfig(namespace, "robot")
    assert control_plane.kubectl("get", "configmap", "made", "-o", "name", kubeconfig=kubeconfig).stdout == (
        "configmap/made\n"
    )


def test_the_api_server_starts_again_with_all_it_had(
    control_plane: ControlPlane, kubelet: Kubelet, namespace: str
) -> None:
    control_plane.restart_apiserver()
    kubelet.rule = lambda pod: Play(message="after")
    control_plane.api.create(job("after"), namespace)
    assert ends(control_plane, namespace, "after")["type"] == "Complete"


def test_the_programs_end_with_the_tests() -> None:
    program = """
        import sys, time
        sys.path.insert(0, sys.argv[1])
        from cluster import programs
        print(programs.start(["sleep", "60"], open("/dev/null", "wb")).pid, flush=True)
        time.sleep(60)
    """
    tests = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", textwrap.dedent(program), tests]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        assert _runs(pid)
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
