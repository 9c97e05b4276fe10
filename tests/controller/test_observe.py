"""What is read from live objects, where order and time matter."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from controller_world import RESULTS, World

from controller.objects import Json, written
from controller.observe import Memory, observe


class Listed:
    """The API server's lists, as a world has them, and its events."""

    def __init__(self, world: World, events: list[Json]) -> None:
        self._lists = {
            "retraincycles": list(world.cycles.values()),
            "jobs": list(world.jobs.values()),
            "pods": list(world.pods.values()),
            "events": events,
        }

    def list(self, kind: str, fieldSelector: str = "", **_: str) -> list[Json]:  # noqa: N803  # as the client's
        asked = dict(part.split("=") for part in fieldSelector.split(",") if part)
        return [one for one in self._lists[kind] if "reason" not in asked or one["reason"] == asked["reason"]]


@pytest.mark.parametrize(
    ("at", "reason", "told"),
    [
        (datetime(2020, 1, 1, tzinfo=UTC), "FailedCreate", False),
        (datetime(2100, 1, 1, tzinfo=UTC), "FailedCreate", True),
        (datetime(2100, 1, 1, tzinfo=UTC), "PodFailurePolicy", False),
    ],
    ids=["refused before the newest pod", "refused since", "failed since"],
)
def test_a_refusal_is_told_where_it_is_in_the_way_now(at: datetime, reason: str, *, told: bool) -> None:
    """A quota refused a pod once; then there was one, and it failed: the quota is not what is in the way now.

    That the Job has failed may be told before its status is read.
    """
    world = World()
    world.add("w1")
    world.run(RESULTS, until="train")
    (name,) = world.running()
    (pod,) = world.pods_of(name)
    pod["status"] = {"phase": "Failed"}
    event = {"reason": reason, "message": "exceeded quota: few", "lastTimestamp": written(at)}
    api: Any = Listed(world, [event])
    observed = observe(api, "workshop", world.settings, Memory(), world.now)
    assert bool(observed.warnings) == told
