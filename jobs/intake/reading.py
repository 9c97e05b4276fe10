"""The records of an archive's data files."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator
from typing import Any, cast

import orjson

from jobs.assignments.archive import Archive
from jobs.assignments.segment import DataFile, SegmentHeader
from jobs.contracts.artifacts import DELETABLE_KINDS
from jobs.contracts.errors import MissingInputError
from jobs.files import decompressed

_BUFFER_BYTES = 1 << 20


def read_data(
    archive: Archive,
    kind: str,
    *,
    headers: Iterable[SegmentHeader] | None = None,
    windows: Collection[int] | None = None,
    splits: Collection[str] | None = None,
) -> Iterator[Any]:
    """The records of all data files of a kind, in the log's order, or of those of some segments, windows and splits.

    Files that may be deleted, and were, are passed over.
    """
    return map(orjson.loads, read_lines(archive, kind, headers=headers, windows=windows, splits=splits))


def read_lines(
    archive: Archive,
    kind: str,
    *,
    headers: Iterable[SegmentHeader] | None = None,
    windows: Collection[int] | None = None,
    splits: Collection[str] | None = None,
) -> Iterator[bytes]:
    """The records of `read_data` as they were written: a line of JSON each."""
    for header in archive.headers() if headers is None else headers:
        if windows is None or header.window_idx in windows:
            for file in header.files.get(kind, ()):
                if splits is None or any(f"/{split}-" in file.key for split in splits):
                    try:
                        yield from _lines(archive, file)
                    except MissingInputError:
                        if kind not in DELETABLE_KINDS:
                            raise


def read_file(archive: Archive, file: DataFile) -> Iterator[Any]:
    """The records of one data file of compressed JSON lines."""
    return map(orjson.loads, _lines(archive, file))


def _lines(archive: Archive, file: DataFile) -> Iterator[bytes]:
    with archive.open_data(file) as stream:
        yield from decompressed(io.BufferedReader(cast("io.RawIOBase", stream), _BUFFER_BYTES))
