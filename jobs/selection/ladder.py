"""What a further attempt of a cycle does otherwise than the first, where that gained too little. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.contracts.cycle.learning import SelectionSpec
from jobs.contracts.errors import UsageError


@dataclass(frozen=True, slots=True)
class Rung:
    """Settings of one attempt in relation to those of the cycle."""

    learning_rate_factor: float = 1.0
    replay_at_cap: bool = False
    """Whether as much is rehearsed as `rehearsal.maxShare` allows, whatever the ratio says."""

    def __str__(self) -> str:
        return f"{self.learning_rate_factor!r}{_CAP if self.replay_at_cap else ''}"


_CAP = ":cap"
_MAX_RUNGS, _MAX_FACTOR = 10, 100
"""As in a cycle's spec."""


def ladder_of(spec: SelectionSpec) -> tuple[Rung, ...]:
    """The rungs of a cycle's spec."""
    return tuple(Rung(one.learning_rate_factor, one.replay_at_cap) for one in spec.ladder)


LADDER = ladder_of(SelectionSpec())
"""The default: half the rate; then a quarter of it, with rehearsal at its cap."""


def rung(attempt: int, ladder: Sequence[Rung] = LADDER) -> Rung:
    """What attempt number so-and-so, from 0, does otherwise: the first nothing, those beyond the ladder as its last.

    Each draws with a seed of its own: seed + attempt.
    """
    return ladder[min(attempt, len(ladder)) - 1] if attempt else Rung()


def read_ladder(text: str) -> tuple[Rung, ...]:
    """`0.5,0.25:cap` as rungs: the learning rate's factors, and `:cap` where rehearsal is at its cap; UsageError."""
    names = [name.strip() for name in text.split(",")]
    try:
        rungs = tuple(Rung(float(name.removesuffix(_CAP)), name.endswith(_CAP)) for name in names)
    except ValueError:
        rungs = ()
    if not 1 <= len(rungs) <= _MAX_RUNGS or not all(0 < one.learning_rate_factor <= _MAX_FACTOR for one in rungs):
        raise UsageError(
            f"not a ladder: {text!r}",
            where="ladder",
            hint=f"such as {','.join(map(str, LADDER))}: up to {_MAX_RUNGS} factors of the learning rate",
        )
    return rungs
