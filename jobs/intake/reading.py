"""The records of an archive's data files."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import orjson
import zstandard

from jobs.assignments.archive import Archive
from jobs.assignments.segment import DataFile

_BLOCK_BYTES = 1 << 20


def read_data(
    archive: Archive, kind: str, *, windows: Collection[int] | None = None, splits: Collection[str] | None = None
) -> Iterator[Any]:
    """The records of all data files of a kind, in the log's order, or of those of some windows and splits."""
    for header in archive.headers():
        if windows is None or header.window_idx in windows:
            for file in header.files.get(kind, ()):
                if splits is None or any(f"/{split}-" in file.key for split in splits):
                    yield from read_file(archive, file)


def read_file(archive: Archive, file: DataFile) -> Iterator[Any]:
    """The records of one data file of compressed JSON lines."""
    with archive.open_data(file) as stream:
        reader = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
        rest = b""
        while block := reader.read(_BLOCK_BYTES):
            *lines, rest = (rest + block).split(b"\n")
            yield from map(orjson.loads, lines)
