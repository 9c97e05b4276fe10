"""What a further attempt of a cycle does otherwise than the first, where that gained too little. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rung:
    """Settings of one attempt in relation to those of the cycle."""

    learning_rate_factor: float = 1.0
    replay_at_cap: bool = False
    """Whether as much is rehearsed as `rehearsal.maxShare` allows, whatever the ratio says."""


LADDER = (Rung(), Rung(0.5), Rung(0.25, replay_at_cap=True))
"""Of attempts 0, 1 and 2; all further ones are like the last."""


def rung(attempt: int) -> Rung:
    """What attempt number so-and-so, from 0, does otherwise. Each draws with a seed of its own: seed + attempt."""
    return LADDER[min(attempt, len(LADDER) - 1)]
