"""The fixtures themselves, with the real Job controller, scheduler and garbage collector."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cluster.api import ApiError, Object, wait_for
from cluster.kubelet import Play, Run

if TYPE_CHECKING:
    from cluster.control_plane import ControlPlane
    from cluster.kubelet import Kubelet

pytestmark = pytest.mark.cluster

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


@pytest.fixture
def pods(control_plane: ControlPlane, namespace: str) -> Callable[[], list[Object]]:
    """Lists the test's pods, the oldest first."""

    def pods() -> list[Object]:
        found = control_plane.api.list("v1/Pod", namespace)
        return sorted(found, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))

    return pods


def ends(control_plane: ControlPlane, namespace: str, name: str) -> Object:
    """The condition with which a Job ends."""

    def end() -> Object | None:
        conditions = control_plane.api.get("batch/v1/Job", name, namespace)["status"].get("conditions", [])
        return next((item for item in conditions if item["type"] in ("Complete", "Failed")), None)

    return wait_for(end, what=f"job {name} ends")


def state(pod: Object) -> Object:
    """Of the pod's container; {} before the kubelet has seen it."""
    return pod["status"].get("containerStatuses", [{"state": {}}])[0]["state"]


def test_a_job_runs_a_real_process_to_its_end(
    control_plane: ControlPlane, kubelet: Kubelet, namespace: str, pods: Callable[[], list[Object]]
) -> None:
    control_plane.apply(
        """
        {apiVersion: v1, kind: Secret, metadata: {name: store}, stringData: {KEY: secret-value}}
        """,
        namespace,
    )
    program = """
        import os, sys
        told = [open(sys.argv[1]).read(), *(os.environ[name] for name in ("KEY", "WHO", "TMPDIR", "MORE"))]
        print("said", file=sys.stderr)
        open(sys.argv[2], "w").write("\\n".join(told))
    """
    document = job(
        "real",
        program,
        args=["/etc/refrain/cycle.json", "/dev/termination-log"],
        env=[
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "WHO", "value": "$(POD) $(NOBODY)"},
            {"name": "TMPDIR", "value": "/tmp"},
        ],
        envFrom=[{"secretRef": {"name": "store"}}],
        volumeMounts=[{"name": "cycle", "mountPath": "/etc/refrain"}, {"name": "tmp", "mountPath": "/tmp"}],
    )
    template = document["spec"]["template"]
    template["metadata"] = {"annotations": {"refrain.dev/cycle": '{"a": 1}'}}
    field = {"fieldPath": "metadata.annotations['refrain.dev/cycle']"}
    template["spec"]["volumes"] = [
        {"name": "cycle", "downwardAPI": {"items": [{"path": "cycle.json", "fieldRef": field}]}},
        {"name": "tmp", "emptyDir": {}},
    ]
    kubelet.env["MORE"] = "more"
    control_plane.api.create(document, namespace)
    assert ends(control_plane, namespace, "real")["type"] == "Complete"
    (pod,) = pods()
    ended = state(pod)["terminated"]
    folder = kubelet.folder / namespace / pod["metadata"]["name"] / "volumes"
    assert ended["message"].split("\n") == [
        '{"a": 1}',
        "secret-value",
        f"{namespace} $(NOBODY)",
        str(folder / "tmp"),
        "more",
    ]
    assert (pod["status"]["phase"], ended["reason"], ended["exitCode"]) == ("Succeeded", "Completed", 0)
    assert kubelet.log(namespace, pod["metadata"]["name"]) == "said\n"


def test_a_permanent_exit_code_fails_the_job_and_its_message_is_cut(
    control_plane: ControlPlane, kubelet: Kubelet, namespace: str, pods: Callable[[], list[Object]]
) -> None:
    program = """
        import sys
        open(sys.argv[1], "w").write("x" + "y" * 4096)
        sys.exit(65)
    """
    document = job("permanent", program, args=["/dev/termination-log"])
    document["spec"] |= {"podFailurePolicy": POLICY, "backoffLimit": 6}
    control_plane.api.create(document, namespace)
    end = ends(control_plane, namespace, "permanent")
    (pod,) = pods()
    assert (end["type"], end["reason"]) == ("Failed", "PodFailurePolicy")
    assert state(pod)["terminated"]["message"] == "y" * 4096
    assert pod["status"]["phase"] == "Failed"


def test_suspending_a_job_lets_its_process_save_and_deletes_the_pod(
    control_plane: ControlPlane, kubelet: Kubelet, namespace: str, pods: Callable[[], list[Object]]
) -> None:
    program = """
        import os, signal, sys, time
        def save(*_):
            open(sys.argv[2], "w").write("saved")
            sys.exit(143)
        signal.signal(signal.SIGTERM, save)
        open(sys.argv[2], "w").write("began")
        time.sleep(60)
    """
    kept = kubelet.folder / "kept"
    control_plane.api.create(job("suspended", program, args=["-", str(kept)]), namespace)
    wait_for(lambda: kept.exists() and kept.read_text() == "began")
    control_plane.api.patch("batch/v1/Job", "suspended", namespace, {"spec": {"suspend": True}})
    wait_for(lambda: not pods())
    assert kept.read_text() == "saved"
    control_plane.api.patch("batch/v1/Job", "suspended", namespace, {"spec": {"suspend": False}})
    wait_for(lambda: any("running" in state(pod) for pod in pods()))


def test_an_eviction_is_ignored_and_the_pod_replaced(
    control_plane: ControlPlane, kubelet: Kubelet, namespace: str, pods: Callable[[], list[Object]]
) -> None:
    kubelet.backdate_seconds = 20
    plays = [Play(hang=True), Play(seconds=0.1, message="done")]
    kubelet.rule = lambda pod: plays.pop(0)
    document = job("evicted")
    document["spec"] |= {"podFailurePolicy": POLICY}
    control_plane.api.create(document, namespace)
    first = wait_for(lambda: next((pod for pod in pods() if "running" in state(pod)), None))
    kubelet.evict(namespace, first["metadata"]["name"])
    assert ends(control_plane, namespace, "evicted")["type"] == "Complete"
    assert [state(pod)["terminated"]["message"] for pod in pods() if "message" in state(pod)["terminated"]] == ["done"]
    assert "failed" not in control_plane.api.get("batch/v1/Job", "evicted", namespace)["status"]


def test_a_lost_node_is_a_disruption(
    control_plane: ControlPlane, kubelet: Kubelet, namespace: str, pods: Callable[[], list[Object]]
) -> None:
    plays: list[Play | Run] = [Run(), Play()]
    kubelet.rule = lambda pod: plays.pop(0)
    document = job("lost", "import time; time.sleep(60)")
    document["spec"] |= {"podFailurePolicy": POLICY}
    control_plane.api.create(document, namespace)
    pod = wait_for(lambda: next((pod for pod in pods() if "running" in state(pod)), None))
    pid = kubelet.pid(namespace, pod["metadata"]["name"])
    kubelet.node_gone()
    wait_for(lambda: not _runs(pid))
    kubelet.node_back()
    assert ends(control_plane, namespace, "lost")["type"] == "Complete"
    assert plays == []


def test_a_pod_without_room_says_so_in_the_schedulers_words(
    control_plane: ControlPlane, kubelet: Kubelet, namespace: str, pods: Callable[[], list[Object]]
) -> None:
    kubelet.rule = lambda pod: Play()
    document = job("gpu", resources={"limits": {"nvidia.com/gpu": 2}})
    control_plane.api.create(document, namespace)

    def unschedulable() -> str:
        conditions = pods()[0]["status"].get("conditions", []) if pods() else []
        return next((item["message"] for item in conditions if item.get("reason") == "Unschedulable"), "")

    assert "Insufficient nvidia.com/gpu" in wait_for(unschedulable)
    kubelet.offer_gpus(2)
    assert ends(control_plane, namespace, "gpu")["type"] == "Complete"


def test_an_image_that_cannot_be_pulled_waits(
    control_plane: ControlPlane, kubelet: Kubelet, namespace: str, pods: Callable[[], list[Object]]
) -> None:
    kubelet.rule = lambda pod: Play(pull_error='failed to resolve "none"')
    control_plane.api.create(job("pull"), namespace)
    reasons = []

    def backs_off() -> bool:
        reasons.extend(state(pod)["waiting"]["reason"] for pod in pods() if state(pod))
        return reasons[-1:] == ["ImagePullBackOff"]

    wait_for(backs_off)
    assert "ErrImagePull" in reasons
    control_plane.api.delete("batch/v1/Job", "pull", namespace)
    wait_for(lambda: not pods())


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
