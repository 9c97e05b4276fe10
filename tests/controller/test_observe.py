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

    def list(self, kind: str, **_: str) -> list[Json]:
        return self._lists[kind]


@pytest.mark.parametrize(("is_before", "told"), [(True, False), (False, True)])
def test_a_warning_from_before_the_newest_pod_is_none(*, is_before: bool, told: bool) -> None:
    """A quota refused a pod once; then there was one, and it failed: the quota is not what is in the way now."""
    world = World()
    world.add("w1")
    world.run(RESULTS, until="train")
    (name,) = world.running()
    (pod,) = world.pods_of(name)
    pod["status"] = {"phase": "Failed"}
    at = datetime(2020, 1, 1, tzinfo=UTC) if is_before else datetime(2100, 1, 1, tzinfo=UTC)
    event = {"message": "exceeded quota: few", "lastTimestamp": written(at)}
    api: Any = Listed(world, [event])
    observed = observe(api, "workshop", world.settings, Memory(), world.now)
    assert bool(observed.warnings) == told
