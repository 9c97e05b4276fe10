"""An archive: a store, the log in it, and the data files that the log's segments name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from jobs.assignments import checkpoint
from jobs.assignments.checkpoint_form import Snapshot
from jobs.assignments.log import AssignmentsLog
from jobs.assignments.segment import DataFile, SegmentHeader
from jobs.assignments.table import LogTable
from jobs.contracts.artifacts import data_key
from jobs.contracts.errors import IntegrityError
from jobs.contracts.records import SPLITS
from jobs.contracts.store import Store, StoreOptions, open_archive, open_store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from jobs.assignments.digests import SmallInts

_BLOCK_BYTES = 1 << 20


class Archive:
    """What the stages read and write, at one URL. What it has read of the log it does not read again."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.log = AssignmentsLog(store)
        self._snapshot: Snapshot | None = None

    @classmethod
    def open(cls, url: str, options: StoreOptions | None = None, *, read_only: bool = False) -> Archive:
        """The archive at a URL or in a folder; see `open_store` and `open_archive` for what it raises."""
        return cls(open_archive(url, options) if read_only else open_store(url, options))

    def snapshot(self, *, digests: bool = False) -> Snapshot:
        """The log as it is now: head, headers, and rows as columns; with message digests to look up, if asked for.

        Costs what was committed since the last call, or since the newest checkpoint. The same object is
        extended and given again.
        """
        snapshot, self._snapshot = self._snapshot, None  # what fails half-way is not kept
        if snapshot is None or (digests and not snapshot.table.digests):
            snapshot = checkpoint.load(self.store, self.log, digests=digests)
        else:
            checkpoint.extend(snapshot, self.log)
        self._snapshot = snapshot
        return snapshot

    def table(self, *, digests: bool = False) -> LogTable:
        """The rows of `snapshot`."""
        return self.snapshot(digests=digests).table

    def headers(self) -> list[SegmentHeader]:
        """The headers of all segments."""
        return self.snapshot().headers

    def write_checkpoint(self) -> None:
        """Write a columnar checkpoint where the newest lies too far back; for the end of a run that commits."""
        checkpoint.write_if_due(self.store, self.log)

    def cursors(self) -> dict[str, Any]:
        """How far each mailbox had been read when its mail was last committed, by mailbox."""
        merged: dict[str, Any] = {}
        for header in self.headers():
            merged.update(header.cursors)
        return merged

    def files(self, kind: str, upto_window: int | None = None) -> list[DataFile]:
        """The data files of a kind, in the order of their commits, of all windows or of those up to one."""
        return [
            file
            for header in self.headers()
            if upto_window is None or header.window_idx <= upto_window
            for file in header.files.get(kind, ())
        ]

    def write_data(
        self, kind: str, window_idx: int, name: str, source: bytes | Path, *, num_rows: int, suffix: str
    ) -> DataFile:
        """Write a data file, to be named in the segment that is committed next. Writing it again changes nothing."""
        sha256, num_bytes = _measure(source)
        key = data_key(kind, window_idx, name, sha256, suffix)
        if not self.store.exists(key):
            if isinstance(source, bytes):
                self.store.put(key, source)
            else:
                self.store.upload(key, source)
        return DataFile(key=key, sha256=sha256, num_bytes=num_bytes, num_rows=num_rows)

    @contextmanager
    def open_data(self, file: DataFile, *, check: bool = True) -> Iterator[BinaryIO]:
        """A data file's bytes as a stream; IntegrityError before the first one where they are not those committed."""
        if check:
            with self.store.open(file.key) as stream:
                self._check(file, stream)
        with self.store.open(file.key) as stream:
            yield stream

    def _check(self, file: DataFile, stream: BinaryIO) -> None:
        if (found := _digest(stream)) != file.sha256:
            raise IntegrityError(
                f"its digest is {found[:16]}…, the log says {file.sha256[:16]}…",
                where=f"{self.store.url}/{file.key}",
                hint="bring it back from a copy of the store",
            )


def rows_without_text(store: Store, headers: Sequence[SegmentHeader], split: SmallInts) -> NDArray[np.bool_]:
    """Of each row of the log, by its split's code: whether the file with its chunk's text has been deleted."""
    there = set(store.list("chunks/"))
    without = np.zeros(len(split), dtype=np.bool_)
    first = 0
    for header in headers:
        rows = slice(first, first + header.num_rows)
        gone = [file.key for file in header.files.get("chunks", ()) if file.key not in there]
        for code, name in enumerate(SPLITS):
            if any(f"/{name}-" in key for key in gone):
                without[rows] |= split[rows] == code
        first += header.num_rows
    return without


def _measure(source: bytes | Path) -> tuple[str, int]:
    """Digest and length."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest(), len(source)
    with source.open("rb") as stream:
        return _digest(stream), source.stat().st_size


def _digest(stream: BinaryIO) -> str:
    sha256 = hashlib.sha256()
    while block := stream.read(_BLOCK_BYTES):
        sha256.update(block)
    return sha256.hexdigest()
