"""What served before is brought back, without a cluster: whatever went wrong, and whoever was in between."""

from __future__ import annotations

from datetime import timedelta

import pytest
from controller_promotions import FORMER, LATE, NEW, OLD, OVER, SUCCEEDED, WITHHELD, begun, marker, withheld
from controller_world import RESULTS, World

from controller.actions import SetAdapter
from controller.plan import heal, plan


def announced(world: World) -> None:
    """A cycle whose candidate is announced, and not set yet."""
    world.deploy(former=FORMER)
    world.add("w1")
    world.run(SUCCEEDED, until="select")
    world.succeed(SUCCEEDED)
    world.look()


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
        announced(world)
        assert world.status("w1").promotion.phase == "Announced"
        world.deployment["spec"]["template"]["metadata"]["annotations"] = {"refrain.dev/adapter": "x@1"}  # type: ignore[index]
        world.settle()
        assert (world.status("w1").promotion.former, world.serving()) == ("x@1", NEW)

    def test_only_what_was_looked_at_is_overwritten(self, world: World) -> None:
        announced(world)
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
        assert world.condition("w1", "Promoted") == ("False", *world.condition("w1", "Succeeded")[1:])  # type: ignore[index]
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


def test_what_a_deleted_cycle_has_begun_is_taken_back_in_one_write(world: World) -> None:
    begun(world)
    observed = world.observed()
    assert heal(observed.inference, observed.cycles) == ()
    assert heal(observed.inference, ()) == (SetAdapter(FORMER, None, ""),)
