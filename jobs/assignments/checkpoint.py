"""Columnar checkpoints: the log up to some segment as one Parquet file, for readers to start from.

Made from segments alone, so that any of them can be deleted and made again. One counts only while it
is sound in itself and the segment that it ends with is the one in the store.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from jobs.assignments.checkpoint_form import Snapshot, decode, encode
from jobs.assignments.log import AssignmentsLog
from jobs.assignments.segment import Head, Segment
from jobs.assignments.table import LogTable
from jobs.contracts.artifacts import checkpoint_key, checkpoint_seq
from jobs.contracts.errors import IntegrityError, MissingInputError
from jobs.contracts.store import Store

SEGMENTS_BETWEEN = 32
"""How many segments a reader may have to read besides a checkpoint."""

_KEPT = 2
_log = logging.getLogger(__name__)


def newest(store: Store) -> Iterator[int]:
    """Numbers of the segments that checkpoints end with, newest first."""
    seqs = [checkpoint_seq(key) for key in store.list("checkpoints/")]
    return reversed([seq for seq in seqs if seq is not None])


def load(store: Store, log: AssignmentsLog, *, digests: bool, upto: int | None = None) -> Snapshot:
    """The log up to a segment, or all of it: the newest sound checkpoint and the segments after it.

    A checkpoint that is damaged, or that is of other segments than the store's, is passed over with a
    warning. Raises what `AssignmentsLog.segments` raises.
    """
    snapshot = Snapshot(Head(), [], LogTable(digests=digests))
    for seq in newest(store):
        if upto is not None and seq > upto:
            continue
        try:
            candidate = read(store, seq, digests=digests)
            _require_current(candidate, log)
        except UnsoundCheckpointError as error:
            _log.warning("%s; it is passed over", error.what)
        else:
            snapshot = candidate
            break
    extend(snapshot, log, upto=upto)
    return snapshot


def extend(snapshot: Snapshot, log: AssignmentsLog, upto: int | None = None) -> None:
    """Add the segments that were committed since."""

    def noting() -> Iterator[Segment]:
        for segment in log.segments(snapshot.head, upto):
            snapshot.head = segment.head
            snapshot.headers.append(segment.header)
            yield segment

    snapshot.table.extend(noting())


def _require_current(snapshot: Snapshot, log: AssignmentsLog) -> None:
    """The segment that a checkpoint ends with is still the one in the store."""
    there = log.read(snapshot.head.seq).head
    if snapshot.head != there:
        raise UnsoundCheckpointError(
            f"checkpoint {there.seq} was made from a segment {snapshot.head.sha256[:16]}…, "
            f"segment {there.seq} is {there.sha256[:16]}…"
        )


def write_if_due(store: Store, log: AssignmentsLog) -> None:
    """Write the checkpoint that is due; they end with every 32nd segment, whoever writes them and when."""
    due = (log.head().seq + 1) // SEGMENTS_BETWEEN * SEGMENTS_BETWEEN - 1
    if due > next(newest(store), -1):
        write(store, log, due)


def write(store: Store, log: AssignmentsLog, seq: int) -> None:
    """Write the checkpoint of the log up to a segment, and drop all but the newest two."""
    snapshot = load(store, log, digests=True, upto=seq)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.parquet"
        encode(snapshot, path)
        store.upload(checkpoint_key(seq), path)
    for old in list(newest(store))[_KEPT:]:
        store.delete(checkpoint_key(old))


class UnsoundCheckpointError(IntegrityError):
    """A checkpoint that cannot be used."""


def read(store: Store, seq: int, *, digests: bool) -> Snapshot:
    """A checkpoint that is sound in itself, with or without its digests; UnsoundCheckpointError."""
    where = f"{store.url}/{checkpoint_key(seq)}"
    try:
        with store.open(checkpoint_key(seq)) as stream:
            snapshot = decode(stream, digests=digests)
    except MissingInputError as error:  # another process has dropped it by now
        raise UnsoundCheckpointError(f"checkpoint {seq} is gone", where=where) from error
    except (pa.ArrowException, IntegrityError, ValueError, KeyError, IndexError, TypeError, OSError) as error:
        raise UnsoundCheckpointError(f"checkpoint {seq} is damaged ({error})", where=where) from error
    if snapshot.head.seq != seq:
        raise UnsoundCheckpointError(f"checkpoint {seq} is of segment {snapshot.head.seq}", where=where)
    return snapshot
