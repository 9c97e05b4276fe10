"""The controller on a real control plane where stages fail, pods cannot run or are lost, and its API server goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cluster.api import Object, wait_for
from cluster.kubelet import Play
from controller_process import Operator, failing, played, stage_of
from controller_world import ALL, RESULTS

from jobs.contracts.errors import InputError

if TYPE_CHECKING:
    from cluster.control_plane import ControlPlane
    from cluster.kubelet import Kubelet
    from conftest import Refrain

pytestmark = pytest.mark.cluster


def test_a_failed_stage_is_retried(one: Operator, kubelet: Kubelet) -> None:
    kubelet.rule = lambda pod: (
        failing(pod, InputError("cut", where="x")) if stage_of(pod)[0] == "train" else played(pod)
    )
    one.create("w1")
    one.wait("w1", "Failed")
    truth, reason, message = one.condition("w1", "Succeeded")
    assert (truth, reason) == ("False", "StageFailed")
    assert "train: x: cut (exit code 65)" in message
    kubelet.rule = played
    one.annotate("w1", retry="again")
    status = one.wait("w1", "Promoted")
    runs = {entry["name"]: entry["run"] for entry in status["stages"]}
    assert runs == dict.fromkeys(ALL, 0) | {"train": 1}
    assert {event["reason"] for event in one.events()} >= {"Started", "StageFailed", "Retried-again", "Promoted"}


def test_evaluation_on_several_pods_goes_on_without_one_that_fails_for_good(
    one: Operator, kubelet: Kubelet, refrain: Refrain
) -> None:
    """Each share is tried on its own: a pod that is killed once counts for nothing in the end, a bad one is named."""
    killed: list[str] = []

    def rule(pod: Object) -> Play:
        arguments = pod["spec"]["containers"][0]["args"]
        if "--gather" in arguments:
            told = {"num_checkpoints": 2, "num_not_scored": 1, "not_scored": ["step_4"]}
            return played(pod, RESULTS | {"evaluate": told})
        if "--share" not in arguments:
            return played(pod)
        index = pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]
        if index == "2":
            return failing(pod, InputError("its loss is nan", where="step_4"))
        if index == "1" and not killed:
            killed.append(pod["metadata"]["name"])
            return Play(exit_code=137, reason="OOMKilled")
        return played(pod, RESULTS | {"evaluate": {"share": f"{index}/4"}})

    kubelet.rule = rule
    one.create("w1", evaluation={"pods": 4})
    status = one.wait("w1", "Promoted")
    message = "1 of 3 checkpoints were not scored, and are not chosen: step_4"
    assert one.condition("w1", "Evaluated") == ("True", "NotAllScored", message)
    entry = next(entry for entry in status["stages"] if entry["name"] == "evaluate")
    assert (entry["run"], entry["result"]["not_scored"]) == (0, ["step_4"])
    jobs = {job["metadata"]["name"]: job for job in one.jobs()}
    assert jobs[entry["job"]]["status"]["failedIndexes"] == "2"
    assert jobs[entry["job"]]["status"]["completedIndexes"] == "0,1,3"
    gathering = jobs[f"{entry['job']}-gathers"]["spec"]["template"]["spec"]["containers"][0]
    assert gathering["args"][gathering["args"].index("--without") + 1] == "2"
    assert killed, "a pod of share 1 was killed, and another one took its place"
    lost = next(event for event in one.events() if event["reason"] == "SharesLost")
    assert "shares 2 of it failed: step_4: its loss is nan" in lost["message"]
    shown = refrain("cycle", "show", "w1", "-n", one.namespace, env={"KUBECONFIG": str(one.control_plane.kubeconfig)})
    assert "not chosen: step_4" in shown.stdout, shown.stderr


def test_a_job_deleted_by_hand_is_asked_for(one: Operator, kubelet: Kubelet, control_plane: ControlPlane) -> None:
    kubelet.rule = lambda pod: Play(hang=True) if _trains(pod) else played(pod)
    one.create("w1")
    job = one.wait_stage("w1", "train")
    control_plane.api.delete("batch/v1/Job", job, one.namespace)
    one.wait("w1", "Promoted")
    assert f"{job}-asks" in _names(one.jobs())


def test_a_job_removed_by_its_ttl_is_not_run_again(
    one: Operator, kubelet: Kubelet, control_plane: ControlPlane
) -> None:
    """The stage ends and its Job is collected while nobody looks: the store is asked for the result."""
    kubelet.rule = lambda pod: Play(hang=True) if _trains(pod) else played(pod)
    one.create("w1")
    job = one.wait_stage("w1", "train")
    (pod,) = [pod for pod in one.pods() if pod["metadata"]["name"].startswith(job)]
    wait_for(lambda: one.status("w1")["stages"][-1]["jobUid"], 30, "its Job's uid is written down")
    one.kill()
    control_plane.api.patch("batch/v1/Job", job, one.namespace, {"spec": {"ttlSecondsAfterFinished": 0}})
    kubelet.finish(one.namespace, pod["metadata"]["name"], message=played(pod).message)
    wait_for(lambda: control_plane.api.find("batch/v1/Job", job, one.namespace) is None, 30, "its Job is collected")
    one.start()
    status = one.wait("w1", "Promoted")
    assert next(entry for entry in status["stages"] if entry["name"] == "train")["run"] == 0
    assert [name for name in _names(one.jobs()) if "-train-" in name] == [f"{job}-asks"]
    assert not {"JobLost", "RanksLost"} & {event["reason"] for event in one.events()}


def _trains(pod: Object) -> bool:
    return pod["spec"]["containers"][0]["args"][:4:3] == ["run", "train"]


def _names(objects: list[Object]) -> list[str]:
    return [item["metadata"]["name"] for item in objects]


@pytest.mark.parametrize("message", ["", '{"stage": "tra', "garbage"])
def test_a_message_that_says_nothing(one: Operator, kubelet: Kubelet, message: str) -> None:
    def rule(pod: Object) -> Play:
        is_train = stage_of(pod)[0] == "train" and pod["spec"]["containers"][0]["args"][0] == "run"
        return Play(message=message) if is_train else played(pod)

    kubelet.rule = rule
    one.create("w1")
    one.wait("w1", "Promoted")


def test_nobody_has_a_gpu(one: Operator, kubelet: Kubelet) -> None:
    kubelet.offer_gpus(0)
    one.create("w1")
    one.wait_stage("w1", "train")
    wait_for(lambda: one.condition("w1", "Progressing")[1] == "Unschedulable", 30, "the scheduler's words")
    assert "Insufficient nvidia.com/gpu" in one.condition("w1", "Progressing")[2]
    kubelet.offer_gpus(1)
    one.wait("w1", "Promoted")


def test_a_quota_refuses_the_pod(one: Operator, control_plane: ControlPlane) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small"},
        "spec": {"hard": {"pods": "0"}},
    }
    control_plane.apply(quota, one.namespace)
    one.create("w1")
    wait_for(lambda: one.condition("w1", "Progressing")[1] == "QuotaExceeded", 60, "the quota's words")
    assert "exceeded quota: small" in one.condition("w1", "Progressing")[2]
    control_plane.api.delete("v1/ResourceQuota", "small", one.namespace)
    one.wait("w1", "Promoted", 120)


def test_an_image_that_cannot_be_pulled(one: Operator, kubelet: Kubelet) -> None:
    kubelet.rule = lambda pod: Play(pull_error="no such image")
    one.create("w1")
    wait_for(lambda: one.condition("w1", "Progressing")[1] == "ImagePullFailed", 60, "the kubelet's words")
    assert (
        "no such image" in one.condition("w1", "Progressing")[2] or "Back-off" in one.condition("w1", "Progressing")[2]
    )


def test_an_evicted_pod_is_replaced(one: Operator, kubelet: Kubelet) -> None:
    kubelet.rule = lambda pod: Play(hang=True) if stage_of(pod)[0] == "train" else played(pod)
    one.create("w1")
    job = one.wait_stage("w1", "train")
    (pod,) = [pod for pod in one.pods() if pod["metadata"]["name"].startswith(job)]
    wait_for(
        lambda: (
            one.control_plane.api.get("v1/Pod", pod["metadata"]["name"], one.namespace)["status"]["phase"] == "Running"
        )
    )
    kubelet.rule = played
    kubelet.evict(one.namespace, pod["metadata"]["name"])
    status = one.wait("w1", "Promoted")
    assert next(entry for entry in status["stages"] if entry["name"] == "train")["run"] == 0


def test_the_api_server_restarted(one: Operator, kubelet: Kubelet, control_plane: ControlPlane) -> None:
    kubelet.rule = lambda pod: Play(hang=True) if stage_of(pod)[0] == "train" else played(pod)
    one.create("w1")
    job = one.wait_stage("w1", "train")
    control_plane.restart_apiserver()
    (pod,) = [pod for pod in one.pods() if pod["metadata"]["name"].startswith(job)]
    kubelet.rule = played
    kubelet.finish(one.namespace, pod["metadata"]["name"], message=played(pod).message)
    one.wait("w1", "Promoted", 120)
    assert one.process is not None
    assert one.process.poll() is None, "it lives on"
