"""A promotion that may be on record is not taken back, without a cluster."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from controller_promotions import FORMER, NEW, SUCCEEDED, marker

from controller.observed import Refusal
from jobs.contracts.errors import MissingInputError, TransientError

if TYPE_CHECKING:
    from controller_world import World


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
        assert world.condition("w1", "Promoted")[:2] == ("False", "DeadlineExceeded")  # type: ignore[index]
        assert (world.serving(), marker(world)) == (FORMER, {})

    @pytest.mark.parametrize("what", ["cycle", "stage"])
    def test_where_nobody_can_tell_the_candidate_stays(self, world: World, what: str) -> None:
        self.late(world, what)
        world.fail(TransientError("the store does not answer"))
        world.settle()
        assert world.condition("w1", "Succeeded")[:2] == ("False", "ResultUnknown")  # type: ignore[index]
        assert world.condition("w1", "Promoted")[:2] == ("Unknown", "ResultUnknown")  # type: ignore[index]
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
