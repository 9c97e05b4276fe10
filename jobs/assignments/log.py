"""The log in a store: who commits next, and whether what is read is what was committed.

S3 has no append. Each commit is one new object, created on condition that it is not there; of
many writers one wins, and the others read what it wrote and try the next number (as Delta Lake's
`_delta_log` does it). Each segment holds the digest of the one before it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jobs.assignments.segment import Draft, Head, Segment, SegmentHeader, decode, digest, encode
from jobs.contracts.artifacts import segment_key, segment_seq
from jobs.contracts.errors import ConfigError, InputError, IntegrityError, MissingInputError, TransientError
from jobs.contracts.store import Store

Build = Callable[[Head], Draft | None]
"""Given the head, what to commit after it; None when the log has all of it already."""

_MAX_RACES = 500
_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 2.0


class AssignmentsLog:
    """The log's segments in a store. Holds no rows; what it has read of the chain it does not read again."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._head = Head()
        self._parameters: dict[str, Any] | None = None
        self._window_idx = 0

    def head(self) -> Head:
        """The newest segment's number and digest, read from the store now: one list and one read.

        Raises IntegrityError where segments are missing. Whether those in between are chained is for
        `segments` to tell.
        """
        seqs = self._seqs(self._head.seq + 1)
        if seqs:
            newest = self.read(seqs[-1])
            if len(seqs) == 1:
                self._following(newest, self._head)
            self._saw(newest.head, newest.header)
        return self._head

    @property
    def seen(self) -> Head:
        """The newest segment that this object has read or written; the store is not asked."""
        return self._head

    def segments(self, after: Head | None = None, upto: int | None = None) -> Iterator[Segment]:
        """Segments in order, from the first or from the one after a known head, to the last or to a number.

        Each is given out when it is known to be the one that the next was chained to; of the newest only
        a head that was recorded elsewhere can tell. Raises IntegrityError that names the segment which is
        missing, damaged or rewritten.
        """
        before = after or Head()
        held: Segment | None = None
        for seq in self._seqs(before.seq + 1):
            segment = self._following(self.read(seq), before)
            if held is not None:
                yield held
            if upto is not None and seq > upto:
                return
            held, before = segment, segment.head
        if held is not None:
            yield held

    def headers(self, after: Head | None = None) -> Iterator[SegmentHeader]:
        """The headers of `segments`."""
        return (segment.header for segment in self.segments(after))

    def parameters(self) -> dict[str, Any] | None:
        """The settings that the archive was begun with; None while the log is empty."""
        self.head()
        return self._parameters

    def append(self, build: Build) -> SegmentHeader | None:
        """Commit what `build` makes of the head; None where it makes nothing.

        When another writer was first, `build` is called again with the new head, and must leave out what
        is there by then. Raises ConfigError for parameters other than the archive's.
        """
        for race in range(_MAX_RACES):
            head = self.head()
            draft = build(head)
            if draft is None:
                return None
            header, data = encode(draft, head)
            if self._parameters is not None:
                _require_same(self._parameters, header.parameters, self._store.url)
            if draft.window_idx < self._window_idx:
                raise InputError(
                    f"window {draft.window_idx} cannot follow window {self._window_idx}", where=self._store.url
                )
            if self._store.put_if_absent(segment_key(header.seq), data):
                self._saw(Head(header.seq, digest(data)), header)
                return header
            # The randomness only spreads the writers in time; no result depends on it.
            time.sleep(random.uniform(0, min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(race, 10))))  # noqa: S311
        raise TransientError(
            f"other writers were first {_MAX_RACES} times in a row", where=self._store.url, hint="try again later"
        )

    def read(self, seq: int) -> Segment:
        """One segment; whether it fits its neighbours is not looked at. IntegrityError names it where it is damaged."""
        try:
            segment = decode(self._store.get(segment_key(seq)))
        except MissingInputError as error:
            raise IntegrityError(f"segment {seq} is missing", where=self._where(seq)) from error
        except IntegrityError as error:
            raise IntegrityError(
                f"segment {seq} is damaged: {error.what}", where=self._where(seq), hint=error.hint
            ) from error
        if segment.header.seq != seq:
            raise IntegrityError(f"segment {seq} says that it is {segment.header.seq}", where=self._where(seq))
        return segment

    def _saw(self, head: Head, header: SegmentHeader) -> None:
        self._head, self._parameters, self._window_idx = head, header.parameters, header.window_idx

    def _seqs(self, start: int) -> list[int]:
        """Numbers of the segments there are, from `start`; IntegrityError where one is missing between them."""
        prefix = "assignments/"
        after = segment_key(start - 1) if start > 0 else ""
        found = [segment_seq(key) for key in self._store.list(prefix, start_after=after)]
        seqs = [seq for seq in found if seq is not None]
        for expected, seq in enumerate(seqs, start):
            if seq != expected:
                raise IntegrityError(
                    f"segment {expected} is missing, segment {seq} is there",
                    where=self._where(expected),
                    hint="bring it back from a copy of the store; nothing can be committed until then",
                )
        return seqs

    def _following(self, segment: Segment, before: Head) -> Segment:
        if segment.header.prev_sha256 != before.sha256:
            raise IntegrityError(
                f"segment {before.seq} is damaged or was rewritten: its digest is {before.sha256[:16]}…, "
                f"segment {before.seq + 1} follows {segment.header.prev_sha256[:16]}…",
                where=self._where(before.seq),
                hint="bring it back from a copy of the store",
            )
        return segment

    def _where(self, seq: int) -> str:
        return f"{self._store.url}/{segment_key(max(seq, 0))}"


def _require_same(begun_with: Mapping[str, Any], asked: Mapping[str, Any], where: str) -> None:
    for name in sorted(begun_with.keys() | asked.keys()):
        if begun_with.get(name) != asked.get(name):
            raise ConfigError(
                f"{name} is {asked.get(name)!r}, but the archive was begun with {begun_with.get(name)!r}",
                where=where,
                hint=f"use the archive's {name}, or begin a new archive",
            )
