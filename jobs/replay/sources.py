"""The chunks that the stages behind split read: from the log of an archive, or from plain files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from jobs.contracts.errors import InputError, MissingInputError
from jobs.contracts.records import Exclusion, short_digest
from jobs.files import read_records
from jobs.replay.reading import Fields, read_chunks
from jobs.replay.table import UNKNOWN, ChunkTable, Rows
from jobs.stages import Inputs

_BESIDE = {
    "chunks": ("chunks.json", "chunks.jsonl"),
    "lengths": ("length_metadata.json", "length_buckets.json"),
    "exclusions": ("exclusions.json", "exclusions.jsonl"),
}
"""Names under which a file is found beside the assignments, unless it is named."""

_SUFFIXES = ("", ".gz", ".zst")


@dataclass(slots=True)
class Chunks:
    """The chunks of an archive, in the log's order, and what should be said about where they came from."""

    table: ChunkTable
    notes: list[str] = field(default_factory=list)


def load(inputs: Inputs) -> Chunks:
    """Every chunk of the log, with sender and length.

    Raises MissingInputError without assignments, InputError for rows that are not what they should be.
    """
    path = inputs.one("assignments")
    table = ChunkTable.from_file(path)
    _require_assigned(table, path)
    chunks = Chunks(table)
    chunks.table = completed(table, inputs, chunks.notes).with_buckets()
    return chunks


def completed(table: ChunkTable, inputs: Inputs, notes: list[str]) -> ChunkTable:
    """The rows with sender and length from the files that tell them; a note for each that is missing."""
    lengths = companion(inputs, "lengths")
    if lengths is not None:
        table = table.completed(ChunkTable.from_file(lengths))
    if _lacks_sender(table) or not table.num_tokens.all():
        chunks = companion(inputs, "chunks")
        if chunks is not None:
            table = table.completed(ChunkTable.from_pairs(_without_split(read_chunks(chunks)), str(chunks)))
    if _lacks_sender(table):
        notes.append("some chunks have no sender: neither chunks.json nor length_metadata.json tells it")
    if not table.num_tokens.all():
        notes.append("some chunks have no token count: neither chunks.json nor length_metadata.json tells it")
    return table


def companion(inputs: Inputs, kind: str) -> Path | None:
    """The file that was named for a kind, else the one beside the assignments; None where there is none.

    Raises MissingInputError for a named file that is not there.
    """
    named = inputs.paths.get(kind)
    if named:
        if not named[0].exists():
            raise MissingInputError("no such file or folder", where=str(named[0]))
        return named[0]
    for assignments in inputs.paths.get("assignments", []):
        for name in _BESIDE[kind]:
            for suffix in _SUFFIXES:
                path = assignments.with_name(name + suffix)
                if path.exists():
                    return path
    return None


def this_window(given: int | None, inputs: Inputs, table: ChunkTable) -> int:
    """The window of this cycle: as given, else the one that the cycle wrote, else the newest; 0 in an empty log."""
    if given is not None:
        return given
    return max(0, table.newest_window())


def exclusions(inputs: Inputs, window_idx: int) -> list[Exclusion]:
    """What leaves the scores up to and including a window."""
    path = companion(inputs, "exclusions")
    if path is None:
        return []
    return [rule for record in read_records(path) if (rule := _exclusion(record, path)).window_idx <= window_idx]


def messages(inputs: Inputs, table: ChunkTable, rows: Rows) -> dict[int, list[str]] | None:
    """Short digests of the messages whose text is a target in each of these rows; None where nothing tells them."""
    path = companion(inputs, "chunks")
    if path is None:
        return None
    wanted = dict(zip(table.take(rows).chunk_ids.to_pylist(), rows.tolist(), strict=True))
    found = {
        wanted[name]: digests
        for block in read_chunks(path)
        for name, item in block
        if name in wanted and (digests := _targets(item)) is not None
    }
    return found if len(found) == len(wanted) else None


def _targets(item: Fields) -> list[str] | None:
    """The chunk's messages, context left out; None where it does not tell them."""
    listed = item.get("messages", item.get("message_ids"))
    if not isinstance(listed, list):
        return None
    names = []
    for message in listed:
        name = message.get("message_id") if isinstance(message, dict) else message
        if not isinstance(name, str):
            return None
        if not (isinstance(message, dict) and message.get("context")):
            names.append(short_digest(name))
    return names


def _exclusion(record: Any, path: Path) -> Exclusion:
    names = {f.name for f in fields(Exclusion)}
    try:
        return Exclusion(**{name: value for name, value in record.items() if name in names})
    except (AttributeError, TypeError) as error:
        raise InputError(f"not an exclusion: {record!r:.80}", where=str(path)) from error


def _lacks_sender(table: ChunkTable) -> bool:
    empty = table.senders.index("").as_py()
    return empty >= 0 and bool((table.sender == empty).any())


def _without_split(blocks: Iterator[list[tuple[str, Fields]]]) -> Iterator[list[tuple[str, Fields]]]:
    """What chunks.json adds: who wrote a chunk and how long it is. Splits and windows are the log's."""
    names = ("sender", "num_tokens", "tokens", "token_count", "length", "length_bucket")
    for block in blocks:
        yield [(name, {key: item[key] for key in names if key in item}) for name, item in block]


def _require_assigned(table: ChunkTable, path: Path) -> None:
    unknown = np.flatnonzero((table.split == UNKNOWN) | (table.window_idx == UNKNOWN))
    if len(unknown):
        name = table.chunk_ids[int(unknown[0])].as_py()
        raise InputError(
            f"chunk {name} has no split or no window_idx",
            where=str(path),
            hint="an assignments file maps each chunk id to {split, thread_id, window_idx}",
        )
    if len(table.distinct()) != len(table):
        raise InputError("a chunk is listed twice", where=str(path))
