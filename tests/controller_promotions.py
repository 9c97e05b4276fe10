"""A promotion under way in a played world: who served, who is to, and what came of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from controller_world import KEPT, RESULTS, WINNER, World

from jobs.contracts.errors import InputError

FORMER = f"cycles/w0/train/checkpoints/step_2@{'f' * 64}"
NEW = f"cycles/w1/train/checkpoints/step_4@{WINNER}"
INCUMBENT = {"adapter": FORMER.partition("@")[0], "sha256": "f" * 64, "scores": {}}
SUCCEEDED = RESULTS | {"select": RESULTS["select"] | {"incumbent": INCUMBENT}}
WITHHELD = KEPT | {"select": SUCCEEDED["select"]}
OLD = {"s1-0": FORMER, "s1-1": FORMER}
LATE = timedelta(seconds=601)
OVER = InputError("something else has come into service")


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
