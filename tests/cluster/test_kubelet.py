"""Pods on the node that is played, under the real Job and Deployment controllers."""

from __future__ import annotations

import contextlib
import socket
import textwrap
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from cluster import programs
from cluster.api import wait_for
from cluster.jobs import POLICY, ends, job, pods_of, running_pod, state
from cluster.kubelet import Play

if TYPE_CHECKING:
    from cluster.api import Object
    from cluster.control_plane import ControlPlane
    from cluster.kubelet import Kubelet

pytestmark = pytest.mark.cluster


def test_a_job_runs_a_real_process_to_its_end(control_plane: ControlPlane, kubelet: Kubelet, namespace: str) -> None:
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
    (pod,) = pods_of(control_plane, namespace)
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
    control_plane: ControlPlane, kubelet: Kubelet, namespace: str
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
    (pod,) = pods_of(control_plane, namespace)
    assert (end["type"], end["reason"]) == ("Failed", "PodFailurePolicy")
    assert state(pod)["terminated"]["message"] == "y" * 4096
    assert pod["status"]["phase"] == "Failed"


def test_suspending_a_job_lets_its_process_save_and_deletes_the_pod(
    control_plane: ControlPlane, kubelet: Kubelet, namespace: str
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
    wait_for(lambda: not pods_of(control_plane, namespace))
    assert kept.read_text() == "saved"
    control_plane.api.patch("batch/v1/Job", "suspended", namespace, {"spec": {"suspend": False}})
    wait_for(lambda: any("running" in state(pod) for pod in pods_of(control_plane, namespace)))


def test_a_process_that_does_not_handle_sigterm_is_killed_after_its_grace(
    control_plane: ControlPlane, kubelet: Kubelet, namespace: str
) -> None:
    document = job("deaf", "import time; time.sleep(60)")
    document["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 1
    control_plane.api.create(document, namespace)
    pod = running_pod(control_plane, namespace)
    control_plane.kubectl("delete", "pod", pod["metadata"]["name"], "-n", namespace, "--wait=false")
    assert ends(control_plane, namespace, "deaf")["reason"] == "BackoffLimitExceeded"
    reports = [event for event in control_plane.audit(user="kubelet", namespace=namespace) if event.resource == "pods"]
    assert [(event.verb, event.subresource) for event in reports] == [("patch", "status")] * 3 + [("delete", "")]
    assert (reports[-1].time - reports[1].time).total_seconds() > 0.9


SERVER = """
    import http.server, os, sys
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/exit":
                os._exit(3)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(os.environ["ADAPTER"].encode())
    http.server.HTTPServer((os.environ["IP"], 8000), Answer).serve_forever()
"""


def test_a_deployments_pods_serve_are_probed_and_start_again(
    control_plane: ControlPlane, kubelet: Kubelet, namespace: str
) -> None:
    container = {
        "name": "server",
        "image": "none",
        "command": ["python", "-c", textwrap.dedent(SERVER)],
        "env": [
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {
                "name": "ADAPTER",
                "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['refrain.dev/adapter']"}},
            },
        ],
        "ports": [{"name": "http", "containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}},
    }
    metadata: Object = {"labels": {"app": "server"}, "annotations": {"refrain.dev/adapter": "one"}}
    template = {"metadata": metadata, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}}
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "server"}}, "template": template}
    document = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "server"}, "spec": spec}
    control_plane.apply(document, namespace)
    rollout = ("rollout", "status", "deployment/server", "-n", namespace, "--timeout=30s")
    control_plane.kubectl(*rollout)
    metadata["annotations"]["refrain.dev/adapter"] = "two"
    control_plane.apply(document, namespace)
    control_plane.kubectl(*rollout)
    wait_for(lambda: len(pods_of(control_plane, namespace)) == 2)
    urls = [f"http://{pod['status']['podIP']}:8000" for pod in pods_of(control_plane, namespace)]
    assert [urllib.request.urlopen(url).read() for url in urls] == [b"two", b"two"]
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"{urls[0]}/exit")
    name = pods_of(control_plane, namespace)[0]["metadata"]["name"]

    def restarted() -> Object | None:
        (status,) = control_plane.api.get("v1/Pod", name, namespace)["status"]["containerStatuses"]
        return status if status["restartCount"] == 1 and status["ready"] else None

    assert wait_for(restarted)["lastState"]["terminated"]["exitCode"] == 3
    assert urllib.request.urlopen(urls[0]).read() == b"two"


def test_a_pods_token_has_its_service_accounts_rights(
    control_plane: ControlPlane, kubelet: Kubelet, namespace: str
) -> None:
    command = [str(programs.binary("kubectl")), "get", "secrets", "--namespace=default"]
    document = job("token", command=command, terminationMessagePolicy="FallbackToLogsOnError")
    control_plane.api.create(document, namespace)
    assert ends(control_plane, namespace, "token")["type"] == "Failed"
    (pod,) = pods_of(control_plane, namespace)
    message = state(pod)["terminated"]["message"]
    assert f'User "system:serviceaccount:{namespace}:default" cannot list resource "secrets"' in message


def test_a_played_pod_may_serve_while_it_runs(control_plane: ControlPlane, kubelet: Kubelet, namespace: str) -> None:
    addresses: list[str] = []

    @contextlib.contextmanager
    def served(pod: Object) -> Iterator[None]:
        with socket.create_server((pod["status"]["podIP"], 9400)) as server:
            addresses.append(server.getsockname()[0])
            yield

    kubelet.rule = lambda pod: Play(hang=True, during=served)
    control_plane.api.create(job("serving"), namespace)
    pod = running_pod(control_plane, namespace)
    assert addresses == [pod["status"]["podIP"]]
    assert _listens(f"http://{addresses[0]}:9400")
    kubelet.finish(namespace, pod["metadata"]["name"], 137, reason="OOMKilled")
    assert ends(control_plane, namespace, "serving")["type"] == "Failed"
    assert state(pods_of(control_plane, namespace)[0])["terminated"]["reason"] == "OOMKilled"
    assert not _listens(f"http://{addresses[0]}:9400")


def test_an_image_that_cannot_be_pulled_waits(control_plane: ControlPlane, kubelet: Kubelet, namespace: str) -> None:
    kubelet.rule = lambda pod: Play(pull_error='failed to resolve "none"')
    control_plane.api.create(job("pull"), namespace)
    reasons: list[str] = []

    def backs_off() -> bool:
        reasons.extend(state(pod)["waiting"]["reason"] for pod in pods_of(control_plane, namespace) if state(pod))
        return reasons[-1:] == ["ImagePullBackOff"]

    wait_for(backs_off)
    assert "ErrImagePull" in reasons
    control_plane.api.delete("batch/v1/Job", "pull", namespace)
    wait_for(lambda: not pods_of(control_plane, namespace))


def _listens(url: str) -> bool:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0
