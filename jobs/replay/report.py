"""What a schedule amounts to: who is rehearsed how much, the shares reached, the padding it costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs.replay.allocation import Counts, sums_by
from jobs.replay.buckets import Buckets
from jobs.replay.table import ChunkTable

if TYPE_CHECKING:
    from jobs.replay.sampler import EpochPlan

_PRINTED_ROWS = 20
_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True, slots=True)
class SenderRow:
    """What one sender's chunks are in the schedule."""

    sender: str
    new: int
    """New chunks in each epoch."""
    available: int
    """Old chunks in the manifest."""
    drawn: int
    """Old chunks in all epochs together."""
    share: float
    """Of all those drawn."""


@dataclass(frozen=True, slots=True)
class Stratum:
    """What one (sender, thread) bucket gives to rehearsal."""

    sender: str
    thread_id: str
    available: int
    drawn: int
    """In all epochs together."""
    share: float
    """Of all those drawn."""


class Strata:
    """The (sender, thread) buckets of a manifest, by sender, then by drawn chunks, most first; made one by one."""

    def __init__(self, table: ChunkTable, buckets: Buckets, drawn: Counts) -> None:
        self._table = table
        self._buckets = buckets
        self._drawn = drawn
        sender_rank = np.argsort(np.argsort(table.senders.to_pylist(), kind="stable"))
        self._order = np.lexsort((buckets.keys, -drawn, sender_rank[buckets.sender]))

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Stratum]:
        for start in range(0, len(self), _BLOCK_ROWS):
            yield from self._take(self._order[start : start + _BLOCK_ROWS])

    def most_drawn(self, count: int) -> list[Stratum]:
        """The first few by drawn chunks, of those that any was drawn of."""
        by_drawn = self._order[np.argsort(-self._drawn[self._order], kind="stable")[:count]]
        return list(self._take(by_drawn[self._drawn[by_drawn] > 0]))

    def _take(self, which: Counts) -> Iterator[Stratum]:
        buckets = self._buckets
        drawn = self._drawn[which]
        return map(
            Stratum,
            self._table.senders.take(pa.array(buckets.sender[which])).to_pylist(),
            self._table.thread_ids.take(pa.array(buckets.thread[which])).to_pylist(),
            buckets.sizes[which].tolist(),
            drawn.tolist(),
            shares_of(drawn, int(self._drawn.sum())),
        )


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the draws of some cycles have reached, at this cycle's settings."""

    cycles: int
    """This one and those before it whose draws were made again: the latest ones."""
    of_cycles: int
    """All that the log tells of."""
    chunks: int
    """Old train chunks that were rehearsed at least once."""
    of_chunks: int
    buckets: int
    """(sender, thread) buckets of which a chunk was."""
    of_buckets: int

    def lines(self) -> Iterator[str]:
        """As people read it."""
        share = _share(self.chunks, self.of_chunks)
        yield (
            f"covered so far: {self.chunks} of {self.of_chunks} old chunks ({share:.1%}), "
            f"{self.buckets} of {self.of_buckets} (sender, thread) buckets"
        )
        of_all = "" if self.cycles == self.of_cycles else f", the latest of {self.of_cycles}"
        cycles = "1 cycle" if self.cycles == 1 else f"{self.cycles} cycles"
        yield f"  by {cycles} of the log{of_all}, had they all run at these settings"


@dataclass(frozen=True, slots=True)
class Report:
    """A schedule in figures; all epochs together unless a field says otherwise."""

    num_epochs: int
    new_chunks: int
    replay_chunks: int
    new_tokens: int
    replay_tokens: int
    padded_tokens: int
    """Tokens that are computed: of each batch its chunks times the longest of them."""
    num_batches: int
    available: int
    """Old chunks in the manifest, those that are new left out."""
    rehearsed: int
    """Different old chunks among those drawn."""
    senders: list[SenderRow]
    """By new and drawn chunks, then by old ones, most first; then by name."""
    strata: Strata
    coverage: Coverage | None = None
    """None where there is no log to tell it from."""

    @property
    def share_chunks(self) -> float:
        """Rehearsal's share of the chunks."""
        return _share(self.replay_chunks, self.new_chunks + self.replay_chunks)

    @property
    def share_tokens(self) -> float:
        """Rehearsal's share of the tokens."""
        return _share(self.replay_tokens, self.new_tokens + self.replay_tokens)

    @property
    def padding(self) -> float:
        """The part of the computed tokens that is padding."""
        return _share(self.padded_tokens - self.new_tokens - self.replay_tokens, self.padded_tokens)

    def figures(self) -> dict[str, Any]:
        """All but the lists, as JSON."""
        return {
            "num_epochs": self.num_epochs,
            "num_batches": self.num_batches,
            "num_new_chunks": self.new_chunks,
            "num_replay_chunks": self.replay_chunks,
            "share_chunks": self.share_chunks,
            "num_new_tokens": self.new_tokens,
            "num_replay_tokens": self.replay_tokens,
            "share_tokens": self.share_tokens,
            "num_padded_tokens": self.padded_tokens,
            "padding": self.padding,
            "num_manifest_chunks": self.available,
            "num_rehearsed_chunks": self.rehearsed,
            "coverage": None if self.coverage is None else asdict(self.coverage),
        }

    def text(self) -> str:
        """The report as people read it."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.num_batches} batches in {self.num_epochs} epochs"
        yield (
            f"rehearsal: {self.replay_chunks} of {self.new_chunks + self.replay_chunks} chunks "
            f"({self.share_chunks:.1%}), {self.share_tokens:.1%} of the tokens; "
            f"{self.rehearsed} different ones of {self.available} in the manifest"
        )
        yield f"padding: {self.padding:.1%} of the tokens computed"
        if self.coverage is not None:
            yield from self.coverage.lines()
        yield ""
        yield "sender distribution"
        yield f"{'new':>9} {'old':>9} {'rehearsed':>9} {'share':>7}  sender"
        for row in self.senders[:_PRINTED_ROWS]:
            yield f"{row.new:>9} {row.available:>9} {row.drawn:>9} {row.share:>7.1%}  {row.sender or '(unknown)'}"
        if (more := len(self.senders) - _PRINTED_ROWS) > 0:
            yield f"{'':>9} {'':>9} {'':>9} {'':>7}  and {more} more"
        if not self.replay_chunks:
            return
        yield ""
        yield "strata, those most rehearsed"
        yield f"{'old':>9} {'rehearsed':>9} {'share':>7}  thread, sender"
        shown = self.strata.most_drawn(_PRINTED_ROWS)
        for stratum in shown:
            yield (
                f"{stratum.available:>9} {stratum.drawn:>9} {stratum.share:>7.1%}  "
                f"{stratum.thread_id or '(unknown)'}, {stratum.sender or '(unknown)'}"
            )
        if (more := len(self.strata) - len(shown)) > 0:
            yield f"{'':>9} {'':>9} {'':>7}  and {more} more"


class Tally:
    """Adds up the epochs of a schedule."""

    def __init__(self, table: ChunkTable, num_new: int, buckets: Buckets) -> None:
        self._table = table
        self._num_new = num_new
        self._buckets = buckets
        self._drawn: Counts = np.zeros(len(buckets), dtype=np.int64)
        self._seen = np.zeros(len(table), dtype=np.bool_)
        self._chunks = [0, 0]
        self._tokens = [0, 0]
        self._padded = 0
        self._epochs = 0
        self._batches = 0

    def add(self, plan: EpochPlan) -> None:
        """Count one epoch."""
        self._epochs += 1
        self._drawn += plan.shares
        self._seen[plan.rows] = True
        self._batches += len(plan.is_replay)
        if not len(plan.is_replay):
            return
        tokens = self._table.num_tokens[plan.rows].astype(np.int64)
        sizes = np.diff(plan.starts)
        sums = np.add.reduceat(tokens, plan.starts[:-1])
        self._padded += int((np.maximum.reduceat(tokens, plan.starts[:-1]) * sizes).sum())
        for replay in (0, 1):
            of_kind = plan.is_replay == bool(replay)
            self._chunks[replay] += int(sizes[of_kind].sum())
            self._tokens[replay] += int(sums[of_kind].sum())

    def report(self) -> Report:
        """What has been counted."""
        return Report(
            num_epochs=self._epochs,
            new_chunks=self._chunks[0],
            replay_chunks=self._chunks[1],
            new_tokens=self._tokens[0],
            replay_tokens=self._tokens[1],
            padded_tokens=self._padded,
            num_batches=self._batches,
            available=len(self._table) - self._num_new,
            rehearsed=int(self._seen[self._num_new :].sum()),
            senders=self._senders(),
            strata=Strata(self._table, self._buckets, self._drawn),
        )

    def _senders(self) -> list[SenderRow]:
        buckets = self._buckets
        names = self._table.senders.to_pylist()
        new = np.bincount(self._table.sender[: self._num_new], minlength=len(names))
        old = sums_by(buckets.sender, buckets.sizes, len(names))
        drawn = sums_by(buckets.sender, self._drawn, len(names))
        rows = map(SenderRow, names, new.tolist(), old.tolist(), drawn.tolist(), shares_of(drawn, self._chunks[1]))
        present = [row for row in rows if row.new or row.available]
        return sorted(present, key=lambda row: (-row.new - row.drawn, -row.available, row.sender))


def shares_of(parts: Counts, whole: int) -> list[float]:
    """What part of the whole each is."""
    shares: list[float] = (parts / max(1, whole)).round(6).tolist()
    return shares


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0
