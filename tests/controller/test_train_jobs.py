"""Training handed over to Kubeflow Trainer, on a control plane with its CRD; what its controller does is played."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster.api import Object, wait_for
from components import require
from controller_process import ACCOUNT, Operator, operator, played

from controller.objects import written
from controller.serving import TRAIN_JOB_RIGHTS

if TYPE_CHECKING:
    from cluster.control_plane import ControlPlane
    from cluster.kubelet import Kubelet

pytestmark = pytest.mark.cluster
KIND = "trainer.kubeflow.org/v1alpha1/TrainJob"
CACHE = Path(os.environ.get("REFRAIN_CACHE") or Path.home() / ".cache" / "refrain")
CRD = CACHE / "trainer" / "trainer.kubeflow.org_trainjobs.yaml"
SETTINGS = {"trainJob": {"runtime": "torch-distributed"}}


@pytest.fixture
def unready(control_plane: ControlPlane, kubelet: Kubelet, namespace: str, tmp_path: Path) -> Iterator[Operator]:
    """A controller that is to hand training over, not started, without the rights for it."""
    require(CRD.is_file(), f"no CRD of Kubeflow Trainer: {CRD} is not there (`make test-servers` brings it)")
    kubelet.rule = played
    kubelet.offer_gpus(4)
    with operator(control_plane, namespace, tmp_path, **SETTINGS) as made:
        yield made


@pytest.fixture
def one(unready: Operator, control_plane: ControlPlane) -> Operator:
    control_plane.apply(CRD.read_text())
    give_rights(unready, control_plane)
    return unready.start()


def give_rights(made: Operator, control_plane: ControlPlane) -> None:
    name, group = {"name": "refrain-train-jobs"}, "rbac.authorization.k8s.io"
    rules = [
        {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}
        for group, resource, verbs in TRAIN_JOB_RIGHTS
    ]
    subjects = [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": made.namespace}]
    role = {"apiGroup": group, "kind": "Role", **name}
    control_plane.apply({"apiVersion": f"{group}/v1", "kind": "Role", "metadata": name, "rules": rules}, made.namespace)
    binding = {"apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": name}
    control_plane.apply(binding | {"roleRef": role, "subjects": subjects}, made.namespace)
    control_plane.wait_for_right(made.namespace, ACCOUNT, "create", "trainjobs", "trainer.kubeflow.org")


def begun(made: Operator, run: int = 0) -> Object:
    """The TrainJob of a training's run, once it is there."""

    def found() -> Object | None:
        jobs = made.control_plane.api.list(KIND, made.namespace)
        return next((job for job in jobs if job["metadata"]["labels"]["refrain.dev/run"] == str(run)), None)

    return wait_for(found, 90, f"a TrainJob of run {run}")


def says(made: Operator, job: Object, kind: str, reason: str, status: str = "True") -> None:
    """What Kubeflow's controller would write."""
    now = written(datetime.now(UTC))
    said = {"type": kind, "status": status, "reason": reason, "message": "as played", "lastTransitionTime": now}
    patch = {"status": {"conditions": [said]}}
    name = job["metadata"]["name"]
    made.control_plane.api.patch(KIND, name, made.namespace, patch, subresource="status", patch="merge")


def test_the_cycle_goes_on_to_its_end(one: Operator) -> None:
    """The API server takes the TrainJob with every field; the store is asked for the result."""
    one.create("w1", training={"nodes": 2, "processesPerNode": 4})
    job = begun(one)
    assert (job["spec"]["trainer"]["numNodes"], job["spec"]["trainer"]["numProcPerNode"]) == (2, 4)
    assert job["spec"]["managedBy"] == "trainer.kubeflow.org/trainjob-controller", "as the CRD's default has it"
    assert job["metadata"]["ownerReferences"][0]["kind"] == "RetrainCycle"
    assert not one.control_plane.api.list("v1/Service", one.namespace), "ranks meet by the runtime's own Service"
    says(one, job, "Complete", "JobsCompleted")
    status = one.wait("w1", "Promoted")
    entry = next(entry for entry in status["stages"] if entry["name"] == "train")
    assert (entry["job"], entry["run"]) == (job["metadata"]["name"], 0)
    assert f"{entry['job']}-asks" in [one["metadata"]["name"] for one in one.jobs()]


def test_one_that_a_ttl_removed_is_not_run_again(one: Operator) -> None:
    one.create("w1")
    job = begun(one)
    wait_for(lambda: one.status("w1")["stages"][-1].get("jobUid"), 30, "it has been seen")
    one.control_plane.api.delete(KIND, job["metadata"]["name"], one.namespace)
    status = one.wait("w1", "Promoted")
    assert next(entry for entry in status["stages"] if entry["name"] == "train")["run"] == 0


def test_it_fails_and_is_begun_again_is_suspended_and_resumed(one: Operator) -> None:
    one.create("w1")
    says(one, begun(one), "Failed", "JobSetFailed")
    again = begun(one, 1)
    says(one, again, "Suspended", "Suspended")
    one.control_plane.api.patch(KIND, again["metadata"]["name"], one.namespace, {"spec": {"suspend": True}})
    one.wait("w1", "Queued")
    one.edit("w1", suspend=True)
    one.wait("w1", "Suspended")
    name = again["metadata"]["name"]
    wait_for(lambda: name not in names_of(one), 90, "it is deleted, when nothing of it is left")
    one.edit("w1", suspend=False)
    says(one, begun(one, 2), "Complete", "JobsCompleted")
    one.wait("w1", "Promoted")
    assert "RanksLost" in {event["reason"] for event in one.events()}


def names_of(made: Operator) -> list[str]:
    return [job["metadata"]["name"] for job in made.control_plane.api.list(KIND, made.namespace)]


def test_it_says_what_is_missing(unready: Operator, control_plane: ControlPlane) -> None:
    """The rights first, then the CRD, for which it waits."""
    control_plane.kubectl("delete", "crd", "trainjobs.trainer.kubeflow.org", "--ignore-not-found", "--wait=true")
    process = unready.start().process
    assert process is not None
    assert process.wait(60) == 77
    missing = ", ".join(f"{verb} trainjobs.trainer.kubeflow.org" for verb in TRAIN_JOB_RIGHTS[0][2])
    assert f"this service account may not {missing}" in unready.said()
    give_rights(unready, control_plane)
    unready.start()
    wait_for(
        lambda: "install Kubeflow Trainer, or take trainJob out of the settings" in unready.said(), 60, "its words"
    )
    control_plane.apply(CRD.read_text())
    unready.create("w1")
    says(unready, begun(unready), "Complete", "JobsCompleted")
    unready.wait("w1", "Promoted")
