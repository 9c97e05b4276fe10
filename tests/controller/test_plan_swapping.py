"""Pods that are told of a candidate instead of being replaced, without a cluster."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from controller_promotions import FORMER, LATE, NEW, OLD, OVER, SUCCEEDED, WITHHELD, marker, withheld

from controller.observed import Answer

if TYPE_CHECKING:
    from controller_world import World


def under_way(world: World, results: Any, num_looks: int) -> None:
    """A cycle behind its `select`, and so many looks at its promotion."""
    world.add("w1")
    world.run(results, until="select")
    world.succeed(results)
    for _ in range(num_looks):
        world.look()


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
        under_way(world, SUCCEEDED, num_looks=6)
        assert (world.status("w1").state, world.status("w1").promotion.reason) == ("Running", "")
        world.refuses.clear()
        world.run(SUCCEEDED)
        assert world.status("w1").state == "Promoted"

    def test_a_pod_that_stays_busy_keeps_the_candidate_out(self, world: World) -> None:
        self.swapping(world).refuses["s1-1", NEW] = "HTTP 503: busy"
        under_way(world, WITHHELD, num_looks=4)
        world.now += timedelta(hours=1)
        world.refuses["s1-1", FORMER] = ""
        world.run(WITHHELD)
        assert world.status("w1").state == "NotPromoted"
        assert world.status("w1").promotion.reason == "NotLoaded"

    def test_a_hiccup_is_asked_again(self, world: World) -> None:
        self.swapping(world).says["s1-0", NEW] = Answer("", "", "TimeoutError: no")
        under_way(world, SUCCEEDED, num_looks=10)
        assert world.status("w1").promotion.phase == "RollingOut"
        world.says.clear()
        assert world.run(SUCCEEDED) == ["promote"]
        assert set(world.loaded.values()) == {NEW}

    def test_no_answer_until_the_time_is_up(self, world: World) -> None:
        self.swapping(world).says["s1-0", NEW] = Answer("", "", "TimeoutError: no")
        under_way(world, SUCCEEDED, num_looks=10)
        world.now += LATE
        world.settle()
        assert (withheld(world), world.loaded) == ("NoAnswer", OLD)

    def test_a_swap_back_that_fails_is_tried_again(self, world: World) -> None:
        self.swapping(world).says["s1-0", NEW] = Answer("0" * 64, "yes")
        world.refuses["s1-1", FORMER] = "HTTP 503: busy"
        under_way(world, SUCCEEDED, num_looks=10)
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
        under_way(world, SUCCEEDED, num_looks=10)
        world.edit("w1", suspend=True)
        world.settle()
        assert (world.loaded, marker(world)) == (OLD, {})
        world.says.clear()
        world.edit("w1", suspend=False)
        world.run(SUCCEEDED)
        assert (world.status("w1").state, set(world.loaded.values())) == ("Promoted", {NEW})

    def test_deleted_in_the_middle(self, world: World) -> None:
        self.swapping(world).says["s1-0", NEW] = Answer("", "", "TimeoutError: no")
        under_way(world, SUCCEEDED, num_looks=10)
        del world.cycles["w1"]
        world.settle()
        assert (world.loaded, marker(world)) == (OLD, {})


class TestAway:
    """Taken back while a pod that has loaded the candidate takes no requests for a while."""

    @pytest.fixture
    def away(self, world: World) -> World:
        world.deploy(mode="Swap", replicas=2)
        world.loaded |= OLD
        world.says["s1-1", NEW] = Answer("", "", "read timed out")
        under_way(world, WITHHELD, num_looks=4)
        assert world.loaded["s1-1"] == NEW
        self.ready(world, is_ready=False)
        return world

    def ready(self, world: World, *, is_ready: bool) -> None:
        world.inference_pods[1]["status"]["conditions"][0]["status"] = str(is_ready)

    def test_it_is_told_all_the_same(self, away: World) -> None:
        away.now += LATE
        away.run(WITHHELD)
        assert (away.status("w1").state, away.loaded, marker(away)) == ("NotPromoted", OLD, {})

    def test_one_that_cannot_be_told_holds_up_no_cycle_and_is_told_until_it_has(self, away: World) -> None:
        away.refuses["s1-1", FORMER] = "ConnectTimeoutError: no"
        away.now += LATE
        for _ in range(6):
            away.look()
        assert withheld(away) == "NoAnswer"
        assert away.condition("w1", "Promoted")[2].endswith(  # type: ignore[index]
            "; serve-1-1 is not ready, and has yet to load the former adapter"
        )
        away.succeed(WITHHELD)
        for _ in range(6):
            away.look()
        assert away.status("w1").state == "NotPromoted"
        assert (away.loaded["s1-1"], bool(marker(away))) == (NEW, True), "it is not forgotten"
        away.refuses.clear()
        self.ready(away, is_ready=True)
        away.settle()
        assert (away.loaded, marker(away)) == (OLD, {})

    def test_the_next_promotion_does_not_wait_for_it(self, away: World) -> None:
        away.refuses["s1-1", FORMER] = "ConnectTimeoutError: no"
        away.now += LATE
        for _ in range(6):
            away.look()
        away.succeed(WITHHELD)
        away.look()
        self.ready(away, is_ready=True)
        away.refuses["s1-1", FORMER] = "HTTP 503: busy"
        away.says.clear()
        away.add("w2")
        for _ in range(100):
            away.look()
            if away.running():
                away.succeed(SUCCEEDED)
        away.settle()
        assert away.status("w2").state == "Promoted"
        assert (set(away.loaded.values()), marker(away)) == ({NEW}, {})

    def test_one_whose_container_does_not_run_begins_with_what_is_on_record(self, away: World) -> None:
        away.inference_pods[1]["status"]["containerStatuses"] = [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]
        away.now += LATE
        away.run(WITHHELD)
        assert (away.status("w1").state, marker(away)) == ("NotPromoted", {})
