"""The controller dies behind each action of a promotion, without a cluster."""

from __future__ import annotations

from typing import Any

import pytest
from controller_promotions import FORMER, NEW, OLD, OVER, SUCCEEDED, WITHHELD, marker
from controller_world import World

from controller.observed import Answer


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
