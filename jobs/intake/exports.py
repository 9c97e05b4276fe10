"""An archive as plain files: assignments.json, chunks.json, length_metadata.json and splits/.

They are made anew from the archive after every import, each one atomically, so a killed export is
mended by the next run. The archive beside them stays the truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import orjson

from jobs.assignments.archive import Archive, rows_without_text
from jobs.assignments.export import assignment_entries
from jobs.contracts.errors import MissingInputError, OutputError
from jobs.contracts.records import SPLITS, Json, Split
from jobs.files import write_json_array, write_json_object
from jobs.intake.reading import read_data, read_lines


def archive_folder(assignments: Path) -> Path:
    """The folder of the archive that an assignments.json is the export of: beside it, and named after it."""
    return assignments.with_suffix(".archive").absolute()


def export_all(archive: Archive, assignments: Path) -> None:
    """Write assignments.json, and what stands beside it: chunks, length metadata, exclusions, what was forgotten."""
    folder = assignments.parent
    write_json_object(assignments, assignment_entries(archive.table()))
    write_json_array(folder / "chunks.json", map(_as_written, read_lines(archive, "chunks")))
    write_json_object(folder / "length_metadata.json", length_entries(archive))
    write_json_array(folder / "exclusions.json", read_data(archive, "exclusions"))
    _export_forgotten(archive, folder / "forgotten.json")


def _export_forgotten(archive: Archive, path: Path) -> None:
    """The ids of chunks whose texts have been deleted; no file where there are none."""
    table = archive.table()
    forgotten = np.flatnonzero(rows_without_text(archive.store, archive.headers(), table.split))
    if len(forgotten):
        write_json_array(path, map(table.chunk_id, forgotten.tolist()))
    else:
        path.unlink(missing_ok=True)


def require_one_form(folder: Path, shard_size: int | None) -> None:
    """OutputError where whole splits lie beside shards to come, or the other way: readers would read both."""
    whole = [folder / f"{split}.json" for split in sorted(SPLITS)]
    others = whole if shard_size else [_shard(path, 1) for path in whole]
    if other := next(filter(Path.exists, others), None):
        raise OutputError(
            f"split there {'without' if shard_size else 'with'} --shard-size before: {other.name} would be left",
            where=str(folder),
            hint="say it as before, or name another folder by --output",
        )


def export_split(archive: Archive, split: Split, path: Path, shard_size: int | None = None) -> None:
    """The decoded records of one split as a JSON array, or as numbered shards `train-00001.json` beside that path."""
    records = map(_as_written, read_lines(archive, "messages", splits=(split,)))
    if shard_size is None:
        write_json_array(path, records)
        return
    number = 0
    while shard := list(islice(records, shard_size)):
        number += 1
        write_json_array(_shard(path, number), shard)
    while (stale := _shard(path, number := number + 1)).exists():  # of an export into smaller shards
        stale.unlink()


def _as_written(line: bytes) -> orjson.Fragment:
    """A record that is copied, not read: it is JSON already."""
    return orjson.Fragment(line.removesuffix(b"\n"))


def _shard(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number:05d}{path.suffix}")


def length_entries(archive: Archive) -> Iterator[tuple[str, Json]]:
    """What length_metadata.json maps: chunk id to its tokens, length bucket and sender."""
    import pyarrow.parquet as pq

    for file in archive.files("lengths"):
        try:
            with archive.open_data(file) as stream:
                table = pq.read_table(stream)
        except MissingInputError:  # deleted, as it may be
            continue
        chunk_ids, *columns = (column.to_pylist() for column in table.columns)
        for chunk_id, *values in zip(chunk_ids, *columns, strict=True):
            yield chunk_id, dict(zip(table.column_names[1:], values, strict=True))
