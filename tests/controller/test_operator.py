"""The controller on a real control plane: its own process and rights, pods that are played."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import kopf
import pytest
from cluster.api import ApiError, Object, wait_for
from cluster.kubelet import Play
from controller_process import Operator, failing, operator, played, stage_of
from controller_world import ALL, KEPT, SKIPPED, WINNER
from inference_pods import served

from controller.handlers import age_of
from controller.reconciler import Reconciler
from controller.settings import PROGRESS_PORT, Settings
from jobs.contracts.errors import InputError

if TYPE_CHECKING:
    from cluster.control_plane import ControlPlane
    from cluster.kubelet import Kubelet

pytestmark = pytest.mark.cluster


def test_from_apply_to_promoted(
    one: Operator, control_plane: ControlPlane, record_property: Callable[[str, object], None]
) -> None:
    since = control_plane.mark()
    one.create("w1")
    status = one.wait("w1", "Promoted")
    assert [entry["name"] for entry in status["stages"]] == ALL
    assert status["candidate"]["sha256"] == WINNER
    done = control_plane.kubectl(
        *("wait", "--for=condition=Complete", "retraincycle/w1", "-n", one.namespace, "--timeout=5s")
    )
    assert "condition met" in done.stdout
    table = control_plane.kubectl("get", "retraincycles", "-n", one.namespace).stdout
    assert "Promoted" in table, table
    described = control_plane.kubectl("describe", "retraincycle", "w1", "-n", one.namespace).stdout
    assert "step_4 is better" in described
    writes = [
        event
        for event in control_plane.audit(since, user=one.user, namespace=one.namespace, writes=True)
        if event.resource != "events"
    ]
    record_property("told", f"from apply to Promoted: {len(writes)} writes for {len(ALL)} stages")
    assert len(writes) <= 3 * len(ALL), writes
    assert all(pod["metadata"]["ownerReferences"] for pod in one.pods())


def test_progress_of_a_training_pod(one: Operator, kubelet: Kubelet) -> None:
    @contextlib.contextmanager
    def progress(pod: Object) -> Iterator[None]:
        told = {"percent": 43.0, "etaSeconds": 1260.0, "loss": 2.125, "step": 7}
        with served(pod["status"]["podIP"], PROGRESS_PORT, lambda _path, _body: told):
            yield

    is_train = {"train": Play(hang=True, during=progress)}
    kubelet.rule = lambda pod: is_train.get(stage_of(pod)[0]) or played(pod)
    one.create("w1")
    one.wait_stage("w1", "train")
    found = wait_for(lambda: one.status("w1").get("progress"), 60, "its progress")
    assert (found["percent"], found["etaSeconds"], found["loss"]) == (43.0, 1260.0, 2.125)
    table = one.control_plane.kubectl("get", "retraincycles", "-n", one.namespace).stdout
    assert "43" in table


def test_it_says_that_it_lives(one: Operator) -> None:
    one.create("w1")
    one.wait("w1", "Promoted")
    with urllib.request.urlopen(f"http://127.0.0.1:{one.health_port}/healthz", timeout=10) as answer:
        assert json.load(answer)["resync_seconds_ago"] < 60

    def told() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{one.metrics_port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        assert 'refrain_api_writes_total{kind="PatchStatus"}' in text
        assert 'refrain_last_promotion_timestamp_seconds{archive="workshop"}' in text
        return 'refrain_cycles{archive="workshop",state="Promoted"} 1.0' in text

    wait_for(told, 60, "the next look has counted it")


def test_logs_are_json_that_says_what_they_are_about(
    control_plane: ControlPlane, kubelet: Kubelet, namespace: str, tmp_path: Path
) -> None:
    kubelet.rule = lambda pod: Play(hang=True)
    with operator(control_plane, namespace, tmp_path) as made:
        made.log_format = "json"
        made.start().create("w1")
        job = made.wait_stage("w1", "parse")
        made.edit("w1", suspend=True)
        made.wait("w1", "Suspended")
        lines = [json.loads(line) for line in (tmp_path / "controller.log").read_text().splitlines()]
    about = {"cycle": "w1", "archive": "workshop", "stage": "parse"}
    (begun,) = [line for line in lines if line["message"] == f"w1: parse begins as {job}"]
    assert (about | {"job": job, "severity": "info"}).items() <= begun.items()
    (stopped,) = [line for line in lines if line["message"] == f"w1: {job} is stopped"]
    assert (stopped["cycle"], stopped["archive"], stopped["job"]) == ("w1", "workshop", job)
    (told,) = [line for line in lines if line["message"] == "w1: Suspended, was Running"]
    assert (about | {"state": "Suspended"}).items() <= told.items()
    assert all(line["timestamp"] for line in lines)


def test_it_does_not_live_where_nothing_is_looked_at() -> None:
    """Plain liveness of kopf would stay well with the API server gone."""
    reconciler = Reconciler(None, lambda: None, Settings(namespace="mail", resync_seconds=1))  # type: ignore[arg-type]
    reconciler.last_resync -= 1000
    with pytest.raises(kopf.PermanentError, match="the last resync was 1000 s ago"):
        age_of(reconciler)


@pytest.mark.slow
def test_ten_resyncs_write_nothing(
    control_plane: ControlPlane, kubelet: Kubelet, namespace: str, tmp_path: Path
) -> None:
    """With cycles in every state that lasts."""

    def rule(pod: Object) -> Play:
        match pod["metadata"]["labels"]["refrain.dev/archive"], stage_of(pod)[0]:
            case "failed", "split":
                return failing(pod, InputError("no"))
            case "running", "window":
                return Play(hang=True)
            case "kept", _:
                return played(pod, KEPT)
            case "skipped", _:
                return played(pod, SKIPPED)
        return played(pod)

    kubelet.rule = rule
    kubelet.offer_gpus(4)
    with operator(control_plane, namespace, tmp_path, resyncSeconds=1) as made:
        made.start()
        made.create("promoted")
        made.create("failed", archive="failed")
        made.create("running", archive="running")
        made.create("suspended", archive="suspended", suspend=True)
        made.create("approval", archive="approval", promotion={"mode": "Manual"})
        made.create("kept", archive="kept")
        made.create("skipped", archive="skipped")
        made.create("refused", archive="refused", store={"url": "s3://refrain", "secretRef": {"name": "theirs"}})
        made.create("waiting", archive="waiting", stages={"parse": {"nodeSelector": {"disk": "none-such"}}})
        made.wait_stage("running", "window")
        made.create("queued", archive="running")
        for name, state in (
            ("promoted", "Promoted"),
            ("failed", "Failed"),
            ("queued", "Queued"),
            ("suspended", "Suspended"),
            ("approval", "AwaitingApproval"),
            ("kept", "NotPromoted"),
            ("skipped", "Skipped"),
            ("refused", "Pending"),
            ("waiting", "Running"),
        ):
            made.wait(name, state)
        wait_for(lambda: made.condition("refused", "Accepted")[:2] == ("False", "SecretNotAllowed"))
        wait_for(lambda: made.condition("waiting", "Progressing")[1] == "Unschedulable")
        since = control_plane.mark()
        _wait_for_looks(made, 90, "ten resyncs of nine archives")
        assert control_plane.audit(since, user=made.user, writes=True) == []


def test_paused_and_let_go_on(control_plane: ControlPlane, kubelet: Kubelet, namespace: str, tmp_path: Path) -> None:
    """The settings are read again at each resync: no restart is needed."""
    kubelet.rule = lambda pod: Play(hang=True) if stage_of(pod)[0] == "sample" else played(pod)
    kubelet.offer_gpus(4)
    with operator(control_plane, namespace, tmp_path, resyncSeconds=1) as made:
        made.start().create("w1")
        job = made.wait_stage("w1", "sample")
        made.configure(paused=True)
        _wait_for_looks(made, 3, "it has read its settings")
        since = control_plane.mark()
        (pod,) = [pod for pod in made.pods() if pod["metadata"]["name"].startswith(job)]
        kubelet.finish(namespace, pod["metadata"]["name"], message=played(pod).message)
        made.create("w2", archive="another")
        _wait_for_looks(made, 6, "it looks on at two archives")
        assert control_plane.audit(since, user=made.user, writes=True) == []
        assert made.status("w2") == {"state": "Pending"}, "as the API server has set it"
        made.configure(paused=False)
        made.wait("w1", "Promoted")
        made.wait("w2", "Running")


def _wait_for_looks(made: Operator, number: int, what: str) -> None:
    """Until so many archives have been looked at."""
    before = _reconciles(made)
    wait_for(lambda: _reconciles(made) >= before + number, 60, what)


def _reconciles(made: Operator) -> float:
    text = urllib.request.urlopen(f"http://127.0.0.1:{made.metrics_port}/metrics", timeout=5).read().decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("refrain_reconciles_total"))


def test_suspended_and_resumed(one: Operator, kubelet: Kubelet) -> None:
    kubelet.rule = lambda pod: Play(hang=True) if stage_of(pod)[0] == "train" else played(pod)
    one.create("w1")
    job = one.wait_stage("w1", "train")
    one.edit("w1", suspend=True)
    one.wait("w1", "Suspended")
    wait_for(lambda: not [pod for pod in one.pods() if pod["metadata"]["name"].startswith(job)])
    kubelet.rule = played
    one.edit("w1", suspend=False)
    one.wait("w1", "Promoted")


def test_edited_while_it_runs(one: Operator, kubelet: Kubelet, control_plane: ControlPlane) -> None:
    """What would change its meaning is refused, and what may change does so; the stage that runs stays."""
    kubelet.rule = lambda pod: Play(hang=True) if stage_of(pod)[0] == "train" else played(pod)
    one.create("w1")
    job = one.wait_stage("w1", "train")
    for changes in ({"training": {"epochs": 9}}, {"archive": "another"}, {"sources": []}):
        with pytest.raises(ApiError, match="is fixed once the cycle has started"):
            one.edit("w1", **changes)
    one.edit("w1", ttlSecondsAfterFinished=7200)
    one.annotate("w1", note="mine")
    (pod,) = [pod for pod in one.pods() if pod["metadata"]["name"].startswith(job)]
    kubelet.finish(one.namespace, pod["metadata"]["name"], message=played(pod).message)
    status = one.wait("w1", "Promoted")
    assert [entry["run"] for entry in status["stages"]] == [0] * len(ALL)
    assert one.get("w1")["spec"]["ttlSecondsAfterFinished"] == 7200


def test_a_deleted_cycle_leaves_nothing(one: Operator, kubelet: Kubelet, control_plane: ControlPlane) -> None:
    kubelet.rule = lambda pod: Play(hang=True) if stage_of(pod)[0] == "train" else played(pod)
    one.create("w1")
    one.wait_stage("w1", "train")
    control_plane.api.delete("refrain.dev/v1alpha1/RetrainCycle", "w1", one.namespace)
    wait_for(lambda: not one.jobs() and not one.pods(), 60, "nothing is left")


def test_two_controllers_at_once(
    one: Operator, control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Cycles of one second have their turns in any order; each is run once, or superseded by one that is."""
    since = control_plane.mark()
    with operator(control_plane, one.namespace, tmp_path_factory.mktemp("other")) as other:
        other.start()
        for number in (1, 2, 3):
            one.create(f"w{number}", sources=[{"mbox": f"s3://mail/{number}.mbox"}])

        def ended() -> list[str]:
            states = sorted(one.status(f"w{number}").get("state", "") for number in (1, 2, 3))
            assert set(states) <= {"Promoted", "Skipped"}, states
            return states

        states = wait_for(ended, 240, "all have ended")
    created = [
        event.name or event.uri
        for event in control_plane.audit(since, user=one.user, namespace=one.namespace, writes=True)
        if (event.verb, event.resource, event.code) == ("create", "jobs", 201)
    ]
    assert len(created) == len(set(created)) == len(ALL) * states.count("Promoted")


def test_too_little_mail(one: Operator, kubelet: Kubelet) -> None:
    kubelet.rule = lambda pod: played(pod, SKIPPED)
    one.create("w1")
    one.wait("w1", "Skipped")
    assert one.condition("w1", "Succeeded")[:2] == ("True", "TooFewMessages")


def test_without_a_right_it_says_which(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    with operator(control_plane, namespace, tmp_path) as made:
        rules = control_plane.api.get("rbac.authorization.k8s.io/v1/Role", "refrain-controller", namespace)["rules"]
        patch = {"rules": [rule for rule in rules if rule["resources"] != ["services"]]}
        control_plane.api.patch("rbac.authorization.k8s.io/v1/Role", "refrain-controller", namespace, patch)
        made.start()
        assert made.process is not None
        assert made.process.wait(60) == 77
        assert "may not get services, create services" in made.said()
