"""The inference Deployment brought to a candidate and back, without a cluster."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from controller_world import KEPT, RESULTS, WINNER, World

from controller.actions import Ask, SetAdapter
from controller.observe import Memory, _inference
from controller.observed import Answer, Refusal
from controller.plan import heal, plan
from jobs.contracts.errors import InputError, MissingInputError, TransientError

FORMER = f"cycles/w0/train/checkpoints/step_2@{'f' * 64}"
NEW = f"cycles/w1/train/checkpoints/step_4@{WINNER}"
INCUMBENT = {"adapter": FORMER.partition("@")[0], "sha256": "f" * 64, "scores": {}}
SUCCEEDED = RESULTS | {"select": RESULTS["select"] | {"incumbent": INCUMBENT}}
WITHHELD = KEPT | {"select": SUCCEEDED["select"]}
OLD = {"s1-0": FORMER, "s1-1": FORMER}
LATE = timedelta(seconds=601)
OVER = InputError("something else has come into service")


@pytest.fixture
def world() -> World:
    return World()


def begun(world: World, **how: Any) -> World:
    """A cycle whose candidate has been set, and is not verified yet."""
    world.deploy(**({"former": FORMER} | how))
    world.add("w1")
    world.run(SUCCEEDED)
    return world


def marker(world: World) -> Any:
    return world.observed().inference.marker  # type: ignore[union-attr]


def withheld(world: World) -> str:
    """Why the candidate is withheld, as the promote Job is told."""
    (name,) = world.running()
    arguments = world.jobs[name]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[-2] == "--withhold", arguments
    return str(arguments[-1]).partition(":")[0]


class TestPromotion:
    def test_it_is_recorded_once_every_pod_answers(self, world: World) -> None:
        world.deploy(former=FORMER)
        world.add("w1")
        world.run()
        assert world.running() == []
        assert world.serving() == NEW
        assert world.status("w1").promotion.former == FORMER
        world.roll_out()
        assert world.run() == ["promote"]
        assert world.status("w1").state == "Promoted"
        assert world.deployment["metadata"]["annotations"] == {}  # type: ignore[index]
        assert world.serving() == NEW

    def test_pods_that_are_never_ready(self, world: World) -> None:
        world.deploy(former=FORMER)
        world.add("w1")
        world.run()
        world.roll_out(ready=False)
        world.now += timedelta(seconds=601)
        world.settle()
        assert world.serving() == FORMER
        (name,) = world.running()
        assert world.jobs[name]["spec"]["template"]["spec"]["containers"][0]["args"][-1].startswith("NotReady: ")
        world.run(KEPT)
        assert world.status("w1").state == "NotPromoted"

    def test_a_pod_that_answers_with_another_adapter(self, world: World) -> None:
        world.deploy(former=FORMER)
        world.add("w1")
        world.run()
        world.roll_out()
        world.says["s2-1", NEW] = Answer("0" * 64, "yes")
        world.settle()
        assert world.serving() == FORMER
        assert world.status("w1").promotion.reason == "WrongAdapter"

    def test_no_answer_before_the_former_pods_go(self, world: World) -> None:
        begun(world).deployment["spec"]["minReadySeconds"] = 30  # type: ignore[index]
        world.says["s2-0", NEW] = Answer("", "", "HTTP 400: too long")
        world.roll_out()
        for seconds, reason in ((0, ""), (19, ""), (1, "NoAnswer")):
            world.now += timedelta(seconds=seconds)
            world.look()
            world.look()
            assert world.status("w1").promotion.reason == reason, seconds
        world.settle()
        assert (withheld(world), world.serving()) == ("NoAnswer", FORMER)

    @pytest.mark.parametrize("seconds", [0, 4, 19, 24])
    def test_a_pod_that_never_answers_is_taken_back_before_they_go(self, world: World, seconds: int) -> None:
        """However late after it was ready it is asked: the question itself must not outlast that."""
        begun(world).deployment["spec"]["minReadySeconds"] = 30  # type: ignore[index]
        world.hangs = {"s2-0"}
        world.roll_out()
        until = world.now + timedelta(seconds=30)
        world.now += timedelta(seconds=seconds)
        world.settle()
        assert (withheld(world), world.serving()) == ("NoAnswer", FORMER)
        assert world.now < until

    def test_where_none_waits_for_it_a_pod_has_all_its_time(self, world: World) -> None:
        """Also where its node's clock is ahead of ours: without minReadySeconds it was counted on at once."""
        begun(world)
        world.says["s2-0", NEW] = Answer("", "", "HTTP 503: busy")
        world.roll_out()
        world.now -= timedelta(seconds=3)
        for _ in range(5):
            world.look()
        assert world.status("w1").promotion.reason == ""

    def test_when_they_have_gone_it_has_all_its_time(self, world: World) -> None:
        begun(world).deployment["spec"]["minReadySeconds"] = 30  # type: ignore[index]
        world.says["s2-0", NEW] = Answer("", "", "HTTP 503: busy")
        world.roll_out()
        world.now += timedelta(seconds=31)  # the controller was away
        for _ in range(5):
            world.look()
        assert world.status("w1").promotion.reason == ""
        world.says.clear()
        assert world.run(SUCCEEDED) == ["promote"]

    def test_no_room_for_a_surge_pod(self, world: World) -> None:
        world.deploy(former=FORMER)
        world.add("w1")
        world.run()
        world.roll_out(ready=False)
        scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no gpu"}
        world.inference_pods[0]["status"]["conditions"].append(scheduled)
        world.now += timedelta(seconds=601)
        world.settle()
        assert world.status("w1").promotion.reason == "NoSpareCapacity"
        assert "Swap" in world.status("w1").promotion.message

    def test_a_person_who_rolls_back_is_not_fought(self, world: World) -> None:
        world.deploy(former=FORMER)
        world.add("w1")
        world.run()
        world.undo(FORMER)
        world.settle()
        assert world.status("w1").promotion.reason == "RolledBackExternally"
        world.run(KEPT)
        assert world.serving() == FORMER
        assert world.status("w1").state == "NotPromoted"

    def test_a_cycle_that_is_deleted_halfway_leaves_the_former_adapter(self, world: World) -> None:
        world.deploy(former=FORMER)
        world.add("w1")
        world.run()
        assert world.serving() == NEW
        del world.cycles["w1"]
        world.settle()
        assert world.serving() == FORMER
        assert world.deployment["metadata"]["annotations"] == {}  # type: ignore[index]

    def test_a_record_that_fails_brings_the_former_adapter_back(self, world: World) -> None:
        world.deploy(former=FORMER)
        world.add("w1")
        world.run()
        world.roll_out()
        world.settle()
        world.fail(InputError("something else has come into service"))
        world.settle()
        assert world.status("w1").state == "Failed"
        assert world.serving() == FORMER

    def test_swapped_pods_are_told_and_asked(self, world: World) -> None:
        world.deploy(mode="Swap")
        world.add("w1")
        assert world.run()[-1] == "promote"
        assert set(world.loaded.values()) == {NEW}
        assert world.serving() == ""
        assert world.deployment["metadata"]["annotations"] == {}  # type: ignore[index]

    def test_a_pod_that_cannot_be_swapped_brings_the_former_back(self, world: World) -> None:
        world.deploy(mode="Swap")
        world.add("w1")
        world.refuses["s1-1", NEW] = "HTTP 404: no such adapter"
        world.run(KEPT | {"select": RESULTS["select"]})
        assert world.status("w1").state == "NotPromoted"
        assert set(world.loaded.values()) == {""}


class TestTakingBack:
    def test_why_is_written_down_before_anything_is_changed(self, world: World) -> None:
        begun(world)
        world.roll_out(ready=False)
        world.now += LATE
        world.look()
        promotion = world.status("w1").promotion
        assert (promotion.phase, promotion.reason, world.serving()) == ("Restoring", "NotReady", NEW)
        world.look()
        assert world.serving() == FORMER
        world.look()
        assert withheld(world) == "NotReady"

    def test_a_controller_that_was_away_asks_before_it_judges(self, world: World) -> None:
        begun(world)
        world.roll_out()
        world.now += timedelta(hours=3)
        world.run(SUCCEEDED)
        assert (world.status("w1").state, world.serving()) == ("Promoted", NEW)

    def test_what_stood_there_before_is_not_set_again_and_again(self, world: World) -> None:
        world.deploy(former=NEW)
        world.roll_out(ready=False)
        world.add("w1")
        world.run(SUCCEEDED)
        world.now += LATE
        world.settle()
        assert withheld(world) == "NotReady"
        assert not [one for one in world.writes if one.startswith("adapter")]

    def test_a_value_that_changed_behind_the_announcement_is_the_former(self, world: World) -> None:
        world.deploy(former=FORMER)
        world.add("w1")
        world.run(SUCCEEDED, until="select")
        world.succeed(SUCCEEDED)
        world.look()
        assert world.status("w1").promotion.phase == "Announced"
        world.deployment["spec"]["template"]["metadata"]["annotations"] = {"refrain.dev/adapter": "x@1"}  # type: ignore[index]
        world.settle()
        assert (world.status("w1").promotion.former, world.serving()) == ("x@1", NEW)

    def test_only_what_was_looked_at_is_overwritten(self, world: World) -> None:
        world.deploy(former=FORMER)
        world.add("w1")
        world.run(SUCCEEDED, until="select")
        world.succeed(SUCCEEDED)
        world.look()
        world.deployment["metadata"]["resourceVersion"] = "17"  # type: ignore[index]
        observed = world.observed()
        actions = plan(observed.cycles[0], observed, world.settings, world.now).actions
        assert [one.resource_version for one in actions if isinstance(one, SetAdapter)] == ["17"]

    def test_suspended_in_the_middle_the_former_is_back_and_it_is_announced_again(self, world: World) -> None:
        begun(world)
        world.roll_out()
        world.edit("w1", suspend=True)
        world.settle()
        assert (world.status("w1").promotion, world.serving(), marker(world)) == (None, FORMER, {})
        world.now += LATE
        world.edit("w1", suspend=False)
        world.settle()
        assert (world.status("w1").promotion.former, world.serving()) == (FORMER, NEW)
        world.roll_out()
        assert world.run(SUCCEEDED) == ["promote"]
        assert world.status("w1").state == "Promoted"

    def test_suspended_while_it_is_taken_back(self, world: World) -> None:
        begun(world)
        world.roll_out(ready=False)
        world.now += LATE
        world.look()
        world.edit("w1", suspend=True)
        world.settle()
        assert (world.status("w1").promotion.phase, world.serving()) == ("Restoring", FORMER)
        world.edit("w1", suspend=False)
        world.settle()
        assert withheld(world) == "NotReady"

    def test_what_a_person_set_meanwhile_stays_when_the_cycle_is_deleted(self, world: World) -> None:
        begun(world)
        world.deployment["spec"]["template"]["metadata"]["annotations"] = {"refrain.dev/adapter": "x@1"}  # type: ignore[index]
        del world.cycles["w1"]
        world.settle()
        assert (world.serving(), marker(world)) == ("x@1", {})


class TestRecording:
    def test_a_cycle_deleted_behind_its_record_leaves_the_candidate(self, world: World) -> None:
        begun(world)
        world.roll_out()
        world.settle()
        assert world.stage_of(world.running()[0])[0] == "promote"
        assert marker(world) == {"cycle": "uid-w1", "adapter": NEW, "former": FORMER, "recording": True}
        del world.cycles["w1"]
        world.settle()
        assert (world.serving(), marker(world)) == (NEW, {})

    def test_it_is_marked_before_the_job_begins(self, world: World) -> None:
        begun(world)
        world.roll_out()
        while not world.running():
            assert not marker(world).get("recording") or world.status("w1").promotion.phase == "Recording"
            world.look()
        assert marker(world)["recording"]

    def test_undone_just_before_the_record(self, world: World) -> None:
        begun(world)
        world.roll_out()
        while world.status("w1").promotion.phase != "Recording":
            world.look()
        world.deployment["spec"]["template"]["metadata"]["annotations"] = {"refrain.dev/adapter": FORMER}  # type: ignore[index]
        world.settle()
        assert withheld(world) == "RolledBackExternally"

    def test_a_retry_brings_the_candidate_into_service_again(self, world: World) -> None:
        begun(world)
        world.roll_out()
        world.settle()
        world.fail(OVER)
        world.settle()
        assert (world.status("w1").state, world.serving(), marker(world)) == ("Failed", FORMER, {})
        world.now += LATE
        world.annotate("w1", retry="1")
        world.settle()
        assert (world.running(), world.serving()) == ([], NEW)
        world.roll_out()
        assert world.run(SUCCEEDED) == ["promote"]
        assert (world.status("w1").state, world.serving()) == ("Promoted", NEW)

    def test_over_its_deadline_in_the_middle_and_retried_it_was_no_person(self, world: World) -> None:
        world.deploy(former=FORMER)
        world.add("w1", deadlineSeconds=3600)
        world.run(SUCCEEDED)
        world.now += timedelta(hours=2)
        world.settle()
        assert (world.status("w1").state, world.serving()) == ("Failed", FORMER)
        world.annotate("w1", retry="1")
        world.settle()
        world.roll_out()
        world.run(SUCCEEDED)
        assert (world.status("w1").state, world.serving()) == ("Promoted", NEW)

    def test_retried_at_once_the_next_one_is_not_held_up(self, world: World) -> None:
        begun(world)
        world.roll_out()
        world.settle()
        world.fail(OVER)
        world.look()
        world.annotate("w1", retry="1")
        world.settle()
        world.roll_out()
        world.run(SUCCEEDED)
        assert world.status("w1").state == "Promoted"


class TestOnRecord:
    """A promotion that may have been written down is not taken back before the store has been asked."""

    UNRECORDED = MissingInputError("promote of cycle w1 has not finished")

    def recording(self, world: World, **spec: Any) -> World:
        world.deploy(former=FORMER)
        world.add("w1", **spec)
        world.run(SUCCEEDED)
        world.roll_out()
        world.settle()
        assert world.stage_of(world.running()[0])[0] == "promote"
        return world

    def late(self, world: World, what: str) -> World:
        """While it is recorded, its time is up: the stage's or the cycle's."""
        deadline = {"deadlineSeconds": 3600}
        self.recording(world, **(deadline if what == "cycle" else {"stages": {"promote": deadline}}))
        (job,) = world.running()
        (pod,) = world.pods_of(job)
        world.now += timedelta(hours=2)
        world.look()
        assert job not in world.jobs
        world.pods[pod["metadata"]["name"]] = pod  # it ends by and by
        world.settle()
        assert (world.running(), world.serving()) == ([], NEW)
        assert world.condition("w1", "Progressing")[1] == "PodsLeft"  # type: ignore[index]
        world.pods.clear()
        world.settle()
        assert world.running() == [f"{job}-asks"]
        return world

    def test_the_record_is_seen_behind_the_cycles_deadline(self, world: World) -> None:
        self.recording(world, deadlineSeconds=3600)
        world.succeed(SUCCEEDED)
        world.now += timedelta(hours=2)
        world.settle()
        assert (world.status("w1").state, world.serving(), marker(world)) == ("Promoted", NEW, {})

    def test_last_words_that_were_lost_by_then_are_asked_for(self, world: World) -> None:
        self.recording(world, deadlineSeconds=3600)
        world.end_job(world.running()[0], None)
        world.now += timedelta(hours=2)
        assert world.run(SUCCEEDED) == ["promote"]
        assert (world.status("w1").state, world.serving()) == ("Promoted", NEW)

    @pytest.mark.parametrize("what", ["cycle", "stage"])
    def test_stopped_at_its_deadline_it_was_on_record(self, world: World, what: str) -> None:
        self.late(world, what)
        world.run(SUCCEEDED)
        assert (world.status("w1").state, world.serving(), marker(world)) == ("Promoted", NEW, {})

    @pytest.mark.parametrize("what", ["cycle", "stage"])
    def test_stopped_at_its_deadline_it_was_not(self, world: World, what: str) -> None:
        self.late(world, what)
        world.fail(self.UNRECORDED)
        world.settle()
        assert world.condition("w1", "Succeeded")[:2] == ("False", "DeadlineExceeded")  # type: ignore[index]
        assert (world.serving(), marker(world)) == (FORMER, {})

    @pytest.mark.parametrize("what", ["cycle", "stage"])
    def test_where_nobody_can_tell_the_candidate_stays(self, world: World, what: str) -> None:
        self.late(world, what)
        world.fail(TransientError("the store does not answer"))
        world.settle()
        assert world.condition("w1", "Succeeded")[:2] == ("False", "ResultUnknown")  # type: ignore[index]
        assert (world.serving(), marker(world)) == (NEW, {})
        world.annotate("w1", retry="1")
        world.run(SUCCEEDED)
        assert (world.status("w1").state, world.serving()) == ("Promoted", NEW)

    def test_where_nobody_may_ask_the_candidate_stays(self, world: World) -> None:
        self.late(world, "cycle")
        (asks,) = world.running()
        world.remove_job(asks)
        world.refusals[asks] = Refusal("exceeded quota: few", is_permanent=False)
        world.settle()
        assert world.condition("w1", "Succeeded")[:2] == ("False", "ResultUnknown")  # type: ignore[index]
        assert (world.serving(), marker(world)) == (NEW, {})

    def test_it_failed_behind_its_record(self, world: World) -> None:
        self.recording(world)
        world.fail(TransientError("the store does not answer"), reason="BackoffLimitExceeded")
        assert world.run(SUCCEEDED) == ["promote"]
        assert (world.status("w1").state, world.serving(), marker(world)) == ("Promoted", NEW, {})

    def test_it_failed_before_its_record(self, world: World) -> None:
        self.recording(world)
        world.fail(TransientError("the store does not answer"), reason="BackoffLimitExceeded")
        world.settle()
        world.fail(self.UNRECORDED)
        world.settle()
        truth, reason, message = world.condition("w1", "Succeeded")  # type: ignore[misc]
        assert (truth, reason) == ("False", "StageFailed")
        assert "the store does not answer" in message
        assert (world.serving(), marker(world)) == (FORMER, {})


class TestRefused:
    """A webhook or a policy lets nobody change the Deployment."""

    DENIAL = 'admission webhook "freeze" denied the request: not on Fridays'
    SAID = ("False", "DeploymentRefused", f"serve may not be changed: {DENIAL}")

    def looked_at(self, world: World, times: int = 10) -> World:
        for _ in range(times):
            world.look()
        return world

    def announced(self, world: World, mode: str) -> World:
        world.deploy(mode=mode, former=FORMER if mode == "Rollout" else "")
        world.loaded |= OLD if mode == "Swap" else {}
        world.add("w1")
        world.run(SUCCEEDED, until="select")
        world.succeed(SUCCEEDED)
        world.denial = self.DENIAL
        return self.looked_at(world)

    @pytest.mark.parametrize("mode", ["Rollout", "Swap"])
    def test_it_is_said_and_goes_on_once_it_is_let(self, world: World, mode: str) -> None:
        self.announced(world, mode)
        assert world.condition("w1", "Progressing") == self.SAID
        world.denial = ""
        world.settle()
        if mode == "Rollout":
            world.roll_out()
        assert world.run(SUCCEEDED)[-1:] == ["promote"]
        assert (world.status("w1").state, world.refusals) == ("Promoted", {})

    @pytest.mark.parametrize("mode", ["Rollout", "Swap"])
    def test_when_the_time_is_up_the_candidate_is_withheld(self, world: World, mode: str) -> None:
        self.announced(world, mode)
        world.now += LATE
        self.looked_at(world)
        assert withheld(world) == "DeploymentRefused"
        world.run(WITHHELD)
        assert (world.status("w1").state, marker(world)) == ("NotPromoted", {})
        assert world.loaded == OLD if mode == "Swap" else world.serving() == FORMER

    def test_refused_before_the_record_it_is_taken_back(self, world: World) -> None:
        begun(world)
        world.roll_out()
        world.denial = self.DENIAL
        self.looked_at(world)
        assert (world.running(), world.condition("w1", "Progressing")) == ([], self.SAID)
        world.now += LATE
        self.looked_at(world)
        assert (world.status("w1").promotion.phase, world.condition("w1", "Progressing")) == ("Restoring", self.SAID)
        world.denial = ""
        world.settle()
        assert (withheld(world), world.serving()) == ("DeploymentRefused", FORMER)

    def test_what_a_deleted_cycle_has_left_holds_up_the_next_and_not_for_ever(self, world: World) -> None:
        begun(world)
        world.denial = self.DENIAL
        del world.cycles["w1"]
        world.add("w2")
        for _ in range(len(RESULTS)):
            self.looked_at(world, 5)
            if world.running():
                world.succeed(SUCCEEDED)
        assert (world.serving(), world.condition("w2", "Progressing")) == (NEW, self.SAID)
        world.now += LATE
        self.looked_at(world)
        assert withheld(world) == "DeploymentRefused"
        world.denial = ""
        world.run(WITHHELD)
        assert (world.status("w2").state, world.serving(), marker(world)) == ("NotPromoted", FORMER, {})


class TestApprovalOfTheServed:
    def test_nobody_approves_and_nothing_is_rolled_out(self, world: World) -> None:
        world.deploy(former=FORMER)
        world.add("w1", promotion={"mode": "Manual", "approvalTimeoutSeconds": 3600})
        world.run(SUCCEEDED)
        world.now += timedelta(hours=2)
        world.settle()
        assert (withheld(world), world.serving()) == ("ApprovalTimedOut", FORMER)

    def test_a_retry_asks_again(self, world: World) -> None:
        world.deploy(former=FORMER)
        world.add("w1", promotion={"mode": "Manual", "approvalTimeoutSeconds": 3600})
        world.run(SUCCEEDED)
        world.now += timedelta(hours=2)
        world.settle()
        world.fail(OVER)
        world.settle()
        world.now += timedelta(hours=2)
        world.annotate("w1", retry="1")
        world.settle()
        assert world.status("w1").state == "AwaitingApproval"


class TestNothingToAsk:
    def test_a_deployment_that_is_missing_is_waited_for(self, world: World) -> None:
        world.deploy(former=FORMER)
        there, world.deployment = world.deployment, None
        world.add("w1")
        world.run(SUCCEEDED)
        assert world.running() == []
        assert world.condition("w1", "Progressing")[:2] == ("False", "InferenceMissing")  # type: ignore[index]
        world.deployment = there
        world.settle()
        world.roll_out()
        world.run(SUCCEEDED)
        assert (world.status("w1").state, world.serving()) == ("Promoted", NEW)
        assert world.status("w1").promotion.former == FORMER

    @pytest.mark.parametrize("is_begun", [False, True])
    def test_a_deployment_that_stays_missing(self, world: World, is_begun: bool) -> None:
        world.deploy(former=FORMER)
        there = world.deployment
        world.deployment = there if is_begun else None
        world.add("w1")
        world.run(SUCCEEDED)
        world.deployment = None
        world.settle()
        assert world.running() == []
        world.now += LATE
        world.settle()
        assert withheld(world) == "InferenceMissing"

    def test_no_replicas(self, world: World) -> None:
        begun(world, replicas=0)
        world.roll_out()
        world.settle()
        assert world.running() == []
        assert world.condition("w1", "Progressing")[:2] == ("False", "NoReplicas")  # type: ignore[index]
        world.now += LATE
        world.settle()
        assert (withheld(world), world.serving()) == ("NoReplicas", FORMER)


class TestSwap:
    """Without a rollout: pods are told, and told back."""

    def swapping(self, world: World) -> World:
        world.deploy(mode="Swap")
        world.loaded |= OLD
        return world

    def test_the_incumbent_is_the_former(self, world: World) -> None:
        self.swapping(world).refuses["s1-1", NEW] = "HTTP 404: no such adapter"
        world.add("w1")
        world.run(WITHHELD)
        assert (world.status("w1").state, world.loaded) == ("NotPromoted", OLD)
        assert world.status("w1").promotion.former == FORMER

    def test_a_busy_pod_is_told_again(self, world: World) -> None:
        self.swapping(world).refuses["s1-1", NEW] = "HTTP 503: busy"
        world.add("w1")
        world.run(SUCCEEDED, until="select")
        world.succeed(SUCCEEDED)
        for _ in range(6):
            world.look()
        assert (world.status("w1").state, world.status("w1").promotion.reason) == ("Running", "")
        world.refuses.clear()
        world.run(SUCCEEDED)
        assert world.status("w1").state == "Promoted"

    def test_a_pod_that_stays_busy_keeps_the_candidate_out(self, world: World) -> None:
        self.swapping(world).refuses["s1-1", NEW] = "HTTP 503: busy"
        world.add("w1")
        world.run(WITHHELD, until="select")
        world.succeed(WITHHELD)
        for _ in range(4):
            world.look()
        world.now += timedelta(hours=1)
        world.refuses["s1-1", FORMER] = ""
        world.run(WITHHELD)
        assert world.status("w1").state == "NotPromoted"
        assert world.status("w1").promotion.reason == "NotLoaded"

    def test_a_hiccup_is_asked_again(self, world: World) -> None:
        self.swapping(world).says["s1-0", NEW] = Answer("", "", "TimeoutError: no")
        world.add("w1")
        world.run(SUCCEEDED, until="select")
        world.succeed(SUCCEEDED)
        for _ in range(10):
            world.look()
        assert world.status("w1").promotion.phase == "RollingOut"
        world.says.clear()
        assert world.run(SUCCEEDED) == ["promote"]
        assert set(world.loaded.values()) == {NEW}

    def test_no_answer_until_the_time_is_up(self, world: World) -> None:
        self.swapping(world).says["s1-0", NEW] = Answer("", "", "TimeoutError: no")
        world.add("w1")
        world.run(SUCCEEDED, until="select")
        world.succeed(SUCCEEDED)
        for _ in range(10):
            world.look()
        world.now += LATE
        world.settle()
        assert (withheld(world), world.loaded) == ("NoAnswer", OLD)

    def test_a_swap_back_that_fails_is_tried_again(self, world: World) -> None:
        self.swapping(world).says["s1-0", NEW] = Answer("0" * 64, "yes")
        world.refuses["s1-1", FORMER] = "HTTP 503: busy"
        world.add("w1")
        world.run(SUCCEEDED, until="select")
        world.succeed(SUCCEEDED)
        for _ in range(10):
            world.look()
        assert world.status("w1").promotion.phase == "Restoring"
        assert "busy" in world.condition("w1", "Progressing")[2]  # type: ignore[index]
        world.refuses.clear()
        world.settle()
        assert (withheld(world), world.loaded) == ("WrongAdapter", OLD)

    def test_a_record_that_fails_is_swapped_back_before_it_is_forgotten(self, world: World) -> None:
        self.swapping(world)
        world.add("w1")
        world.run(SUCCEEDED, until="promote")
        world.refuses["s1-1", FORMER] = "HTTP 503: busy"
        world.fail(OVER)
        for _ in range(5):
            world.look()
        assert (world.status("w1").state, world.loaded["s1-0"], bool(marker(world))) == ("Failed", FORMER, True)
        world.refuses.clear()
        world.settle()
        assert (world.loaded, marker(world)) == (OLD, {})

    def test_what_was_heard_of_an_earlier_promotion_does_not_count(self, world: World) -> None:
        self.swapping(world)
        world.add("w1")
        world.run(SUCCEEDED, until="promote")
        for number in (1, 2):
            world.fail(OVER)
            world.settle()
            assert world.loaded == OLD, number
            world.now += LATE
            world.annotate("w1", retry=str(number))
            world.run(SUCCEEDED, until="promote")
            assert set(world.loaded.values()) == {NEW}, number

    def test_suspended_in_the_middle(self, world: World) -> None:
        self.swapping(world).says["s1-0", NEW] = Answer("", "", "TimeoutError: no")
        world.add("w1")
        world.run(SUCCEEDED, until="select")
        world.succeed(SUCCEEDED)
        for _ in range(10):
            world.look()
        world.edit("w1", suspend=True)
        world.settle()
        assert (world.loaded, marker(world)) == (OLD, {})
        world.says.clear()
        world.edit("w1", suspend=False)
        world.run(SUCCEEDED)
        assert (world.status("w1").state, set(world.loaded.values())) == ("Promoted", {NEW})

    def test_deleted_in_the_middle(self, world: World) -> None:
        self.swapping(world).says["s1-0", NEW] = Answer("", "", "TimeoutError: no")
        world.add("w1")
        world.run(SUCCEEDED, until="select")
        world.succeed(SUCCEEDED)
        for _ in range(10):
            world.look()
        del world.cycles["w1"]
        world.settle()
        assert (world.loaded, marker(world)) == (OLD, {})


class Listing:
    """Of the API what an observation needs: one Deployment, and pods by selector, which is noted."""

    def __init__(self, selector: Any, pods: list[Any]) -> None:
        template: Any = {"metadata": {"annotations": {}}}
        self.deployment = {"metadata": {"name": "serve"}, "spec": {"selector": selector, "template": template}}
        self.pods = pods
        self.asked: list[str] = []

    def get(self, kind: str, name: str) -> Any:
        return self.deployment

    def list(self, kind: str, **selectors: str) -> list[Any]:
        self.asked.append(selectors["labelSelector"])
        return self.pods


def pod(name: str, **changes: Any) -> Any:
    owner = {"kind": "ReplicaSet", "name": "serve-5d4f", "controller": True, "uid": "r"}
    return {"metadata": {"name": name, "labels": {"pod-template-hash": "5d4f"}, "ownerReferences": [owner]} | changes}


class TestSelecting:
    def inference(self, world: World, api: Listing) -> Any:
        world.deploy()
        return _inference(api, "workshop", world.settings, Memory())  # type: ignore[arg-type]

    def test_labels_and_expressions(self, world: World) -> None:
        expressions = [
            {"key": "tier", "operator": "In", "values": ["a", "b"]},
            {"key": "zone", "operator": "NotIn", "values": ["c"]},
            {"key": "live", "operator": "Exists"},
            {"key": "dead", "operator": "DoesNotExist"},
        ]
        api = Listing({"matchLabels": {"app": "serve"}, "matchExpressions": expressions}, [pod("one")])
        assert [one["metadata"]["name"] for one in self.inference(world, api).pods] == ["one"]
        assert api.asked == ["app=serve,tier in (a,b),zone notin (c),live,!dead"]

    def test_an_empty_one_is_not_all_pods(self, world: World) -> None:
        api = Listing({}, [pod("one")])
        assert (self.inference(world, api).pods, api.asked) == ((), [])

    def test_pods_of_others_with_the_same_labels(self, world: World) -> None:
        job = {"kind": "Job", "name": "w1-train-0-0", "controller": True, "uid": "j"}
        other = {"kind": "ReplicaSet", "name": "canary-5d4f", "controller": True, "uid": "c"}
        pods = [pod("stage", ownerReferences=[job]), pod("canary", ownerReferences=[other]), pod("bare", labels={})]
        assert self.inference(world, Listing({"matchLabels": {"app": "serve"}}, pods)).pods == ()


def test_what_a_deleted_cycle_has_begun_is_taken_back_in_one_write(world: World) -> None:
    begun(world)
    observed = world.observed()
    assert heal(observed.inference, observed.cycles) == ()
    assert heal(observed.inference, ()) == (SetAdapter(FORMER, None, ""),)


def test_each_pod_is_asked_once_in_a_look(world: World) -> None:
    begun(world)
    world.roll_out()
    world.answers["s2-0", NEW] = Answer("", "", "TimeoutError: no")
    observed = world.observed()
    actions = plan(observed.cycles[0], observed, world.settings, world.now).actions
    asked = [one.pod["metadata"]["name"] for one in actions if isinstance(one, Ask)]
    assert asked == ["serve-2-0", "serve-2-1"]


class _Dying(World):
    """Dies once, behind the so manieth action of its life, and forgets what it has heard."""

    num_actions = 0
    dies_at = 0

    def look(self, die_behind: int | None = None) -> int:
        left = self.dies_at - self.num_actions
        count = super().look(left if left > 0 else None)
        self.num_actions += count
        if left > 0 and count == left:
            self.answers.clear()
            self.swaps.clear()
        return count


def _play(scenario: str, dies_at: int) -> _Dying:
    """From `select` on, as that is where the Deployment comes in."""
    world = _Dying()
    mode, _, what = scenario.partition("-")
    world.deploy(mode=mode, former=FORMER if mode == "Rollout" else "")
    world.loaded |= OLD if mode == "Swap" else {}
    if what == "wrong":
        world.says |= {(f"s{one}-1", NEW): Answer("0" * 64, "yes") for one in (1, 2)}
    world.add("w1")
    world.run(SUCCEEDED, until="select")
    world.num_actions, world.dies_at = 0, dies_at
    results = WITHHELD if what == "wrong" else SUCCEEDED
    world.run(results, until="promote" if what == "failed" else None)
    if mode == "Rollout":
        world.roll_out()
        world.run(results, until="promote" if what == "failed" else None)
    if what == "failed":
        world.fail(OVER)
        world.settle()
    return world


@pytest.mark.parametrize("mode", ["Rollout", "Swap"])
@pytest.mark.parametrize("what", ["right", "wrong", "failed"])
def test_died_behind_each_action(mode: str, what: str) -> None:
    def facts(world: _Dying) -> tuple[Any, ...]:
        status = world.status("w1")
        pods = {world.loaded.get(f"s1-{n}") for n in (0, 1)} if mode == "Swap" else world.serving()
        return status.state, status.promotion.reason, pods, marker(world)

    undisturbed = _play(f"{mode}-{what}", 0)
    state = {"right": "Promoted", "wrong": "NotPromoted", "failed": "Failed"}[what]
    served = NEW if what == "right" else FORMER
    reason = "WrongAdapter" if what == "wrong" else ""
    assert facts(undisturbed) == (state, reason, {served} if mode == "Swap" else served, {})
    for number in range(1, undisturbed.num_actions + 1):
        assert facts(_play(f"{mode}-{what}", number)) == facts(undisturbed), number
