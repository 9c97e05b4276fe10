"""The inference Deployment brought to a candidate, without a cluster."""

from __future__ import annotations

from datetime import timedelta

import pytest
from controller_promotions import FORMER, LATE, NEW, OVER, SUCCEEDED, begun, withheld
from controller_world import KEPT, RESULTS, World

from controller.actions import Ask
from controller.observed import Answer
from controller.plan import plan
from jobs.contracts.errors import InputError


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


def test_each_pod_is_asked_once_in_a_look(world: World) -> None:
    begun(world)
    world.roll_out()
    world.answers["s2-0", NEW] = Answer("", "", "TimeoutError: no")
    observed = world.observed()
    actions = plan(observed.cycles[0], observed, world.settings, world.now).actions
    asked = [one.pod["metadata"]["name"] for one in actions if isinstance(one, Ask)]
    assert asked == ["serve-2-0", "serve-2-1"]
