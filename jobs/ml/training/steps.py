"""The schedule as a flat list of optimiser steps, and what of each step a process computes. Pure.

A step is some consecutive batches of one epoch; no step crosses an epoch. It is the same whatever the
number of processes: each batch is dealt out over them, and the update is that of the whole step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jobs.contracts.errors import InputError
from jobs.contracts.records import Json

ChunkIds = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One update of the weights."""

    epoch: int
    batches: tuple[ChunkIds, ...]
    is_last_of_epoch: bool

    @property
    def chunk_ids(self) -> Iterator[str]:
        """Every chunk of the step, in the schedule's order."""
        for batch in self.batches:
            yield from batch


def plan_steps(schedule: Json, accumulation: int = 1, where: str = "epoch_schedule.json") -> list[Step]:
    """The steps of a schedule: `accumulation` batches each, the last of an epoch perhaps fewer; InputError."""
    steps: list[Step] = []
    try:
        for epoch in schedule["epochs"]:
            batches = [tuple(batch["chunk_ids"]) for batch in epoch["batches"]]
            for first in range(0, len(batches), accumulation):
                is_last = first + accumulation >= len(batches)
                steps.append(Step(epoch["epoch"], tuple(batches[first : first + accumulation]), is_last))
    except (KeyError, TypeError) as error:
        raise InputError(
            f"not a schedule: {error!r}", where=where, hint="make it again with `refrain sample`"
        ) from error
    if not steps:
        raise InputError(
            "the schedule has no batch: there is nothing to train on", where=where, hint="was there new mail?"
        )
    return steps


def micro_batches(
    step: Step, lengths: Mapping[str, int], *, rank: int = 0, num_ranks: int = 1, max_tokens: int | None = None
) -> list[ChunkIds]:
    """What one process puts through the model in a step, in order; `()` where it has nothing to do meanwhile.

    `lengths` are in tokens; at most max_tokens, padding counted, go at once. All processes get equally
    many, for they meet after each.
    """
    mine: list[ChunkIds] = []
    for batch in step.batches:
        shares = [_cut(share, lengths, max_tokens) for share in _deal(batch, lengths, num_ranks)]
        num_turns = max(map(len, shares))
        mine += shares[rank] + [()] * (num_turns - len(shares[rank]))
    return mine


def _deal(batch: ChunkIds, lengths: Mapping[str, int], num_ranks: int) -> list[list[str]]:
    """The batch dealt out so that all get about as many tokens: the longest first, to whom has the fewest."""
    shares: list[list[str]] = [[] for _ in range(num_ranks)]
    loads = [0] * num_ranks
    for chunk_id in sorted(batch, key=lambda one: -lengths[one]):
        rank = min(range(num_ranks), key=lambda one: (loads[one], one))
        shares[rank].append(chunk_id)
        loads[rank] += lengths[chunk_id]
    return shares


def _cut(share: Sequence[str], lengths: Mapping[str, int], max_tokens: int | None) -> list[ChunkIds]:
    """A share, longest first, in pieces that fit; a chunk that is longer stands alone."""
    pieces: list[list[str]] = []
    for chunk_id in share:
        fits = pieces and (max_tokens is None or lengths[pieces[-1][0]] * (len(pieces[-1]) + 1) <= max_tokens)
        if fits:
            pieces[-1].append(chunk_id)
        else:
            pieces.append([chunk_id])
    return [tuple(piece) for piece in pieces]
