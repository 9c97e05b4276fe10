"""Adapters dealt among machines, and what these made of them put together: the same as if one had scored all. Pure.

A part, what `evaluate` makes of a share, is

    {"work": {…}, "adapters": ["base", "incumbent", "step_4", …], "num_others": 2,
     "scored": [{"place": 2, "entry": {…}, "val_loss": …, "num_tokens": …}, …],
     "best": {"controls": {…}, "num_tokens": …} of its best checkpoint, "people": {…} of who has the base model}

`work` is what was scored on, alike for all; a share without an adapter has none. Losses are the unrounded sums
that the best is found by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.contracts.errors import InputError, IntegrityError
from jobs.contracts.records import Json
from jobs.contracts.shares import Share

_ALIKE = ("window_idx", "val", "test")
"""What of `work` has to be the same for scores to be held against each other."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """What came of all adapters."""

    work: Json
    base: Json
    incumbent: Json | None
    checkpoints: list[Json]
    not_scored: list[str]
    """Checkpoints whose share was lost."""
    best: Json
    """The entry of the checkpoint of the lowest val loss: controls were asked of it."""
    controls: Json | None
    people: Json | None
    num_tokens: int


def dealt(num_adapters: int, num_others: int, share: Share) -> list[int]:
    """The places of the adapters that are a share's. Pure, and as even as can be.

    What every checkpoint is held against, the first `num_others`, is of share 0, which gets checkpoints last.
    """
    shares: list[list[int]] = [[] for _ in range(share.num)]
    shares[0] = list(range(num_others))
    for place in range(num_others, num_adapters):
        least = min(range(share.num), key=lambda one: (len(shares[one]), -one))
        shares[least].append(place)
    return shares[share.index]


def gathered(parts: Sequence[Json | None]) -> Gathered:
    """The parts put together, in the order of their shares; None for one that was lost.

    InputError where what is in service, the bare base model or every checkpoint was lost; IntegrityError where
    parts are of different mail.
    """
    there = [part for part in parts if part is not None and part["work"] is not None]
    if not there:
        raise _lost("nothing was scored")
    first = there[0]
    if any(part["work"][name] != first["work"][name] for part in there for name in _ALIKE):
        raise IntegrityError("shares were scored on different mail", hint="run evaluate once more")
    names, num_others = first["adapters"], first["num_others"]
    scored = {one["place"]: one for part in there for one in part["scored"]}
    for place in range(num_others):
        if place not in scored:
            raise _lost(f"{'what is in service' if place else 'the bare base model'} was not scored")
    places = sorted(place for place in scored if place >= num_others)
    if not places:
        raise _lost("no checkpoint was scored")
    best = min(places, key=lambda place: scored[place]["val_loss"])
    controlled = next(part["best"] for part in there if any(one["place"] == best for one in part["scored"]))
    people = next(part["people"] for part in there if part["people"])
    return Gathered(
        first["work"],
        scored[0]["entry"],
        scored[1]["entry"] if num_others > 1 else None,
        [scored[place]["entry"] for place in places],
        [name for place, name in enumerate(names) if place not in scored],
        scored[best]["entry"],
        controlled["controls"],
        people["people"],
        sum(one["num_tokens"] for one in (*scored.values(), controlled, people)),
    )


def _lost(what: str) -> InputError:
    hint = "see why its pod failed, then retry: what was scored is kept"
    return InputError(f"{what}, and nothing may be chosen without it", where="evaluate", hint=hint)
