"""The inference Deployment brought to a candidate, with real rollouts, and servers on the pods' own addresses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster.api import Object, wait_for
from cluster.kubelet import GPU
from controller_process import Operator, operator, played
from controller_world import KEPT, RESULTS, WINNER
from inference_pods import Serving, deployment, settings_of

if TYPE_CHECKING:
    from cluster.control_plane import ControlPlane
    from cluster.kubelet import Kubelet, Play, Run

pytestmark = pytest.mark.cluster
FORMER = f"cycles/w0/train/checkpoints/step_2@{'f' * 64}"
NEW = f"cycles/w1/train/checkpoints/step_4@{WINNER}"
DEPLOYMENT = "apps/v1/Deployment"
WEEKS = ("w0", "w1", "w2", "w3")


@pytest.fixture
def serving(kubelet: Kubelet) -> Serving:
    made = Serving()

    def rule(pod: Object) -> Play:
        if pod["metadata"]["labels"].get("app") == "serve":
            return made.play(pod)
        is_withheld = "--withhold" in pod["spec"]["containers"][0]["args"]
        return played(pod, KEPT | {"select": RESULTS["select"]} if is_withheld else RESULTS)

    kubelet.rule = rule
    kubelet.offer_gpus(4)
    return made


@contextlib.contextmanager
def promoting(control_plane: ControlPlane, namespace: str, folder: Path, mode: str = "Rollout") -> Iterator[Operator]:
    with operator(control_plane, namespace, folder, inference=settings_of(folder, mode)) as made:
        yield made.start()


def adapter_at(value: str) -> Object:
    """As a stage's result has it."""
    key, _, digest = value.partition("@")
    return {"adapter": key, "sha256": digest, "scores": {}}


def adapter_of(made: Operator) -> str:
    found = made.control_plane.api.get(DEPLOYMENT, "serve", made.namespace)
    return str(found["spec"]["template"]["metadata"].get("annotations", {}).get("refrain.dev/adapter", ""))


def marker_of(made: Operator) -> str:
    found = made.control_plane.api.get(DEPLOYMENT, "serve", made.namespace)
    return str(found["metadata"].get("annotations", {}).get("refrain.dev/promotion", ""))


def is_available(made: Operator) -> None:
    def available() -> bool:
        status = made.control_plane.api.get(DEPLOYMENT, "serve", made.namespace).get("status", {})
        return status.get("availableReplicas") == 2

    wait_for(available, 60, "the Deployment is available")


def test_promoted_when_every_pod_answers(
    control_plane: ControlPlane, serving: Serving, namespace: str, tmp_path: Path
) -> None:
    control_plane.api.create(deployment(), namespace)
    with promoting(control_plane, namespace, tmp_path) as made:
        is_available(made)
        made.create("w1")
        made.wait("w1", "Promoted", 120)
        assert adapter_of(made) == NEW
        assert len(set(serving.asked)) == 2
        wait_for(lambda: marker_of(made) == "", 30, "the promotion is forgotten")
        # As `helm upgrade` does it: a server-side apply without the annotation leaves it alone.
        control_plane.api.apply(deployment(), namespace, manager="helm")
        assert adapter_of(made) == NEW


def test_a_wrong_answer_brings_the_former_back(
    control_plane: ControlPlane, serving: Serving, namespace: str, tmp_path: Path
) -> None:
    control_plane.api.create(deployment(FORMER), namespace)
    serving.answers_with = lambda adapter: "0" * 64
    with promoting(control_plane, namespace, tmp_path) as made:
        is_available(made)
        made.create("w1")
        status = made.wait("w1", "NotPromoted", 120)
        assert status["promotion"]["reason"] == "WrongAdapter"
        assert adapter_of(made) == FORMER


def test_pods_that_are_never_ready_bring_the_former_back(
    control_plane: ControlPlane, serving: Serving, namespace: str, tmp_path: Path
) -> None:
    control_plane.api.create(deployment(FORMER), namespace)
    with promoting(control_plane, namespace, tmp_path) as made:
        is_available(made)
        serving.is_ready = False
        made.create("w1", promotion={"timeoutSeconds": 5})
        status = made.wait("w1", "NotPromoted", 120)
        assert status["promotion"]["reason"] == "NotReady"
        assert adapter_of(made) == FORMER
        (job,) = [one for one in made.jobs() if one["metadata"]["labels"]["refrain.dev/stage"] == "promote"]
        assert "NotReady: " in job["spec"]["template"]["spec"]["containers"][0]["args"][-1]


def test_undone_by_a_person(control_plane: ControlPlane, serving: Serving, namespace: str, tmp_path: Path) -> None:
    control_plane.api.create(deployment(FORMER), namespace)
    with promoting(control_plane, namespace, tmp_path) as made:
        is_available(made)
        serving.is_ready = False
        made.create("w1", promotion={"timeoutSeconds": 600})
        wait_for(lambda: adapter_of(made) == NEW, 120, "the candidate is set")
        control_plane.kubectl("rollout", "undo", "deployment/serve", "-n", namespace)
        status = made.wait("w1", "NotPromoted", 120)
        assert status["promotion"]["reason"] == "RolledBackExternally"
        assert adapter_of(made) == FORMER
        serving.is_ready = True
        made.create("w2")
        made.wait("w2", "Promoted", 120)
        assert adapter_of(made) == NEW


def test_undone_when_it_had_ended(
    control_plane: ControlPlane, kubelet: Kubelet, serving: Serving, namespace: str, tmp_path: Path
) -> None:
    """The next cycle, whose select finds the newest promotion on record, says so once, and brings in its own."""
    weeks = {week: f"cycles/{week}/train/checkpoints/step_4@{week[1] * 64}" for week in WEEKS}

    def rule(pod: Object) -> Play | Run:
        week = pod["metadata"]["labels"].get("refrain.dev/cycle")
        if not week:
            return serving.play(pod)
        recorded = weeks[WEEKS[WEEKS.index(week) - 1]]
        found = {"incumbent": adapter_at(recorded), "candidate": adapter_at(weeks[week])}
        return played(pod, RESULTS | {"select": RESULTS["select"] | found})

    kubelet.rule = rule
    control_plane.api.create(deployment(weeks["w0"]), namespace)
    with promoting(control_plane, namespace, tmp_path) as made:
        is_available(made)
        for week in ("w1", "w2"):
            made.create(week)
            made.wait(week, "Promoted", 120)
            wait_for(lambda: marker_of(made) == "", 30, "the promotion is forgotten")
        control_plane.kubectl("rollout", "undo", "deployment/serve", "-n", namespace)
        assert adapter_of(made) == weeks["w1"]
        assert '"recording": true' in marker_of(made), "it comes back from the ReplicaSet, and says nothing any more"
        made.create("w3")
        status = made.wait("w3", "Promoted", 120)
        assert status["promotion"]["former"] == weeks["w1"]
        assert adapter_of(made) == weeks["w3"]
        (told,) = (one for one in made.events() if one["reason"] in ("RolledBackExternally", "RecordDiffers"))
        assert (told["reason"], told["involvedObject"]["name"]) == ("RolledBackExternally", "w3")
        served, recorded = (weeks[week][: 16 - 64] for week in ("w1", "w2"))
        assert told["message"].startswith(f"serve serves {served}, the record says {recorded}: somebody set it")
        wait_for(lambda: marker_of(made) == "", 30, "the promotion is forgotten")


def test_no_room_for_one_more_pod(
    control_plane: ControlPlane, kubelet: Kubelet, serving: Serving, namespace: str, tmp_path: Path
) -> None:
    """Its GPUs are all taken by the former pods, which go on."""
    wanted = deployment(FORMER)
    wanted["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {GPU: "1"}}
    control_plane.api.create(wanted, namespace)
    with promoting(control_plane, namespace, tmp_path) as made:
        is_available(made)
        former = {pod["metadata"]["name"] for pod in made.pods()}
        made.create("w1", promotion={"mode": "Manual", "timeoutSeconds": 15})
        made.wait("w1", "AwaitingApproval", 120)
        kubelet.offer_gpus(2)  # what trained had the others
        made.edit("w1", promotion={"mode": "Manual", "timeoutSeconds": 15, "approve": WINNER})
        status = made.wait("w1", "NotPromoted", 120)
        assert status["promotion"]["reason"] == "NoSpareCapacity"
        assert f"Insufficient {GPU}" in status["promotion"]["message"]
        assert "set its mode to Swap" in status["promotion"]["message"]
        assert adapter_of(made) == FORMER
        serving_now = [pod for pod in made.pods() if pod["metadata"]["labels"].get("app") == "serve"]
        assert {pod["metadata"]["name"] for pod in serving_now} >= former


FROZEN = """
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: frozen-NAMESPACE}
spec:
  failurePolicy: Fail
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAMESPACE}}
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [UPDATE], resources: [deployments]}
  validations:
  - {expression: "false", message: not on Fridays, reason: Forbidden}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: frozen-NAMESPACE}
spec: {policyName: frozen-NAMESPACE, validationActions: [Deny]}
"""


def test_a_policy_that_freezes_the_deployment(
    control_plane: ControlPlane, serving: Serving, namespace: str, tmp_path: Path
) -> None:
    control_plane.api.create(deployment(FORMER), namespace)
    policy = tmp_path / "policy.yaml"
    policy.write_text(FROZEN.replace("NAMESPACE", namespace))
    with promoting(control_plane, namespace, tmp_path) as made:
        is_available(made)
        control_plane.kubectl("apply", "-f", str(policy))

        probe = ("patch", "deployment/serve", "-n", namespace, "-p", '{"metadata": {"annotations": {"probe": "x"}}}')

        def is_frozen() -> bool:
            return "not on Fridays" in control_plane.kubectl(*probe, "--dry-run=server", check=False).stderr

        def is_said() -> bool:
            conditions = made.status("w1").get("conditions", [])
            return any(one["reason"] == "DeploymentRefused" and one["type"] == "Progressing" for one in conditions)

        try:
            wait_for(is_frozen, 60, "the policy holds")
            made.create("w1", promotion={"timeoutSeconds": 20})
            wait_for(is_said, 120, "it is said")
            status = made.wait("w1", "NotPromoted", 120)
        finally:
            control_plane.kubectl("delete", "-f", str(policy))
        assert status["promotion"]["reason"] == "DeploymentRefused"
        assert "not on Fridays" in status["promotion"]["message"]
        assert (adapter_of(made), marker_of(made)) == (FORMER, "")


def test_swapped_without_a_rollout(
    control_plane: ControlPlane, serving: Serving, namespace: str, tmp_path: Path
) -> None:
    control_plane.api.create(deployment(), namespace)
    with promoting(control_plane, namespace, tmp_path, mode="Swap") as made:
        is_available(made)
        pods = {pod["metadata"]["name"] for pod in made.pods()}
        made.create("w1")
        made.wait("w1", "Promoted", 120)
        assert serving.loaded == dict.fromkeys(pods, NEW)
        assert adapter_of(made) == ""


def test_deleted_halfway(control_plane: ControlPlane, serving: Serving, namespace: str, tmp_path: Path) -> None:
    control_plane.api.create(deployment(FORMER), namespace)
    with promoting(control_plane, namespace, tmp_path) as made:
        is_available(made)
        serving.is_ready = False
        made.create("w1", promotion={"timeoutSeconds": 600})
        wait_for(lambda: adapter_of(made) == NEW, 120, "the candidate is set")
        control_plane.api.delete("refrain.dev/v1alpha1/RetrainCycle", "w1", namespace)
        wait_for(lambda: adapter_of(made) == FORMER and marker_of(made) == "", 60, "the former one is back")
