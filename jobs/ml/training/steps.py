"""The schedule as a flat list of optimiser steps, and what of each step a process computes. Pure.

A step is some consecutive batches of one epoch; no step crosses an epoch. It is the same whatever the
number of processes: each batch is dealt out over them, and the update is that of the whole step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson

from jobs.contracts.errors import InputError
from jobs.contracts.records import Json

ChunkIds = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One update of the weights."""

    epoch: int
    """Counts from 0."""
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
            batches = [batch for one in epoch["batches"] if (batch := tuple(map(_chunk_id, one["chunk_ids"])))]
            for first in range(0, len(batches), accumulation):
                is_last = first + accumulation >= len(batches)
                steps.append(Step(epoch["epoch"], tuple(batches[first : first + accumulation]), is_last))
    except (KeyError, TypeError) as error:
        raise InputError(
            f"not a schedule: {error!r}", where=where, hint="make it again with `refrain sample`"
        ) from error
    if not steps:
        raise InputError(
            "the schedule has no batch: there is nothing to train on",
            where=where,
            hint="`refrain window` says whether new mail came; a cycle without any is to be skipped",
        )
    return steps


def _chunk_id(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a chunk id is {value!r}")
    return value


def steps_to_save(steps: Sequence[Step], save_steps: int) -> frozenset[int]:
    """After how many steps a checkpoint is due: every `save_steps`, at each epoch's end, and at the end."""
    return frozenset(
        number for number, step in enumerate(steps, 1) if number % save_steps == 0 or step.is_last_of_epoch
    )


def epochs_after(steps: Sequence[Step]) -> list[float]:
    """How many epochs of the schedule lie behind after 0, 1, 2 … steps, with the share of the one begun."""
    sizes: dict[int, int] = {}
    for step in steps:
        sizes[step.epoch] = sizes.get(step.epoch, 0) + 1
    behind, done = [0.0], dict.fromkeys(sizes, 0)
    finished = 0
    for step in steps:
        done[step.epoch] += 1
        share = done[step.epoch] / sizes[step.epoch]
        finished += step.is_last_of_epoch
        behind.append(float(finished) if step.is_last_of_epoch else finished + share)
    return behind


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


def num_tokens(step: Step, lengths: Mapping[str, int], num_ranks: int, max_tokens: int | None) -> tuple[int, int]:
    """How many tokens all processes read in a step: without and with padding."""
    padded = 0
    for rank in range(num_ranks):
        for one in micro_batches(step, lengths, rank=rank, num_ranks=num_ranks, max_tokens=max_tokens):
            padded += len(one) * max((lengths[name] for name in one), default=0)
    return sum(lengths[name] for name in step.chunk_ids), padded


def seen_digest(before: str, chunk_ids: Iterable[str]) -> str:
    """The chained digest of the chunks that a process has seen, one step further."""
    return hashlib.sha256(before.encode() + orjson.dumps(list(chunk_ids))).hexdigest()


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
