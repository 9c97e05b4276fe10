"""Where the stages behind split read the chunks: the log of an archive, or plain files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from jobs.contracts.errors import InputError, MissingInputError, UsageError
from jobs.contracts.records import LENGTH_NAMES, Exclusion, short_digest
from jobs.files import STANDARD, read_records
from jobs.replay.reading import Fields, read_chunks
from jobs.replay.table import UNKNOWN, ChunkTable, Mask, Rows

if TYPE_CHECKING:
    from jobs.assignments.archive import Archive

Paths = Mapping[str, Sequence[Path]]

_BESIDE = {
    "chunks": ("chunks.json", "chunks.jsonl"),
    "lengths": ("length_metadata.json", "length_buckets.json"),
    "exclusions": ("exclusions.json", "exclusions.jsonl"),
    "forgotten": ("forgotten.json",),
}
"""Names under which a file is found beside the assignments, unless it is named."""

_SUFFIXES = ("", ".gz", ".zst")


class ChunkSource(Protocol):
    """The chunks that the log holds, and what else is known of them."""

    notes: list[str]
    """What a user should know about what was missing."""

    @property
    def table(self) -> ChunkTable:
        """Every chunk, in the log's order."""
        ...

    @property
    def forgotten(self) -> Mask:
        """Of each row of the table: whether its text has been deleted. Nothing can be learnt from it, or scored."""
        ...

    def this_window(self) -> int:
        """The window of this cycle: the newest that it wrote, else the newest; 0 in an empty log."""
        ...

    def cycle_windows(self, window_idx: int) -> list[int]:
        """The windows with which cycles ended, up to and including this one, ascending."""
        ...

    def exclusions(self, window_idx: int) -> list[Exclusion]:
        """What leaves the scores up to and including a window."""
        ...

    def count_messages(self, rows: Rows) -> int | None:
        """How many different messages have their text as a target in these rows; None where that is not known."""
        ...

    def masked_messages(self, rows: Rows, masked: set[str]) -> dict[int, list[str]]:
        """By row, ascending: which of these messages (short digests) are targets there."""
        ...


def open_source(paths: Paths, archive: Archive | None, cycle: str, *, messages: bool = False) -> ChunkSource:
    """The archive's log where there is one, else the files beside the assignments.

    `messages` says that the last two methods will be called.
    """
    if archive is not None:
        from jobs.replay.archive_source import ArchiveSource

        return ArchiveSource(archive, cycle, messages=messages)
    return FileSource(paths)


def window_of(source: ChunkSource, asked: int | None) -> int:
    """The window that was asked for, else this cycle's; UsageError for one that is not there yet."""
    newest = max(0, source.table.newest_window())
    if asked is not None and asked > newest:
        raise UsageError(f"there is no window {asked} yet: the newest is {newest}", where="--window-idx")
    return source.this_window() if asked is None else asked


class FileSource:
    """Chunks in plain files: assignments, and beside them chunks.json, length_metadata.json, exclusions.json.

    `paths` names them by kind: `assignments`, `chunks`, `lengths`, `exclusions`. Raises
    MissingInputError for files that were named and are not there, InputError for what is not as
    it should be.
    """

    def __init__(self, paths: Paths) -> None:
        self.notes: list[str] = []
        self._paths = paths

    @cached_property
    def table(self) -> ChunkTable:
        """See `ChunkSource`."""
        path = self._assignments()
        table = ChunkTable.from_file(path)
        _require_assigned(table, path)
        return self.completed(table).with_buckets()

    @cached_property
    def forgotten(self) -> Mask:
        """See `ChunkSource`: the chunks that forgotten.json lists, where there is one."""
        forgotten = np.zeros(len(self.table), dtype=np.bool_)
        if (path := self._companion("forgotten")) is not None:
            rows = self.table.find(ChunkTable.from_file(path).chunk_ids)
            forgotten[rows[rows >= 0]] = True
            self._note(forgotten_note(forgotten))
        return forgotten

    def completed(self, table: ChunkTable) -> ChunkTable:
        """The rows with sender and length from the files that tell them; a note for each that is missing."""
        if (lengths := self._companion("lengths")) is not None:
            table = table.completed(ChunkTable.from_file(lengths))
        if not (table.has_senders() and table.num_tokens.all()) and (chunks := self._companion("chunks")) is not None:
            table = table.completed(ChunkTable.from_pairs(_lengths_alone(read_chunks(chunks)), str(chunks)))
        for what, known in (("sender", table.has_senders()), ("token count", bool(table.num_tokens.all()))):
            if not known:
                self._note(f"some chunks have no {what}: no chunks.json or length_metadata.json tells it")
        return table

    def this_window(self) -> int:
        """See `ChunkSource`."""
        return max(0, self.table.newest_window())

    def cycle_windows(self, window_idx: int) -> list[int]:
        """Every window that has a chunk: plain files do not tell which cycle wrote what."""
        windows = np.unique(self.table.window_idx)
        return [int(window) for window in windows if window <= window_idx]

    def exclusions(self, window_idx: int) -> list[Exclusion]:
        """See `ChunkSource`."""
        path = self._companion("exclusions")
        rules = [] if path is None else [as_exclusion(record, str(path)) for record in read_records(path)]
        return [rule for rule in rules if rule.window_idx <= window_idx]

    def count_messages(self, rows: Rows) -> int | None:
        """See `ChunkSource`."""
        if not len(rows):
            return 0
        digests: set[str] = set()
        num_told = 0
        for _, targets in self._targets(rows):
            digests.update(targets)
            num_told += 1
        if num_told < len(rows):
            self._note("how many messages are new is not known: no chunks.json tells them")
            return None
        return len(digests)

    def masked_messages(self, rows: Rows, masked: set[str]) -> dict[int, list[str]]:
        """See `ChunkSource`."""
        found = {row: sorted(masked.intersection(targets)) for row, targets in self._targets(rows)} if masked else {}
        return {row: found[row] for row in sorted(found) if found[row]}

    def _targets(self, rows: Rows) -> Iterator[tuple[int, Sequence[str]]]:
        """Short digests of the messages whose text is a target, for each row that chunks.json tells."""
        path = self._companion("chunks")
        if path is None:
            return
        wanted = dict(zip(self.table.take(rows).chunk_ids.to_pylist(), rows.tolist(), strict=True))
        for block in read_chunks(path):
            for name, item in block:
                row = wanted.get(name)
                if row is not None and (targets := _targets(item)) is not None:
                    yield row, targets

    def _assignments(self) -> Path:
        if paths := self._paths.get("assignments"):
            return paths[0]
        raise UsageError("needs the assignments")

    def _companion(self, kind: str) -> Path | None:
        """The file that was named for a kind, else the one beside the assignments; None where there is none."""
        if named := self._paths.get(kind):
            if not named[0].exists():
                raise MissingInputError("no such file or folder", where=str(named[0]))
            return named[0]
        for assignments in self._paths.get("assignments", []):
            if assignments == STANDARD:
                continue
            for name in _BESIDE[kind]:
                for suffix in _SUFFIXES:
                    if (path := assignments.with_name(name + suffix)).exists():
                        return path
        return None

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def forgotten_note(forgotten: Mask) -> str:
    """What a user is told of chunks without a text."""
    return f"{forgotten.sum()} chunks are left out: their texts have been deleted"


def as_exclusion(record: Any, where: str) -> Exclusion:
    """A JSON object as an exclusion; InputError where it is none."""
    names = {f.name for f in fields(Exclusion)}
    try:
        return Exclusion(**{name: value for name, value in record.items() if name in names})
    except (AttributeError, TypeError) as error:
        raise InputError(f"not an exclusion: {record!r:.80}", where=where) from error


def _targets(item: Fields) -> list[str] | None:
    """A chunk's messages, context left out; None where it does not tell them."""
    listed = item.get("messages", item.get("message_ids"))
    if not isinstance(listed, list):
        return None
    names = [message if isinstance(message, str) else _target(message) for message in listed]
    return [short_digest(name) for name in names if name]


def _target(message: Any) -> str | None:
    if not isinstance(message, dict) or message.get("context"):
        return None
    name = message.get("message_id")
    return name if isinstance(name, str) else None


def _lengths_alone(blocks: Iterator[list[tuple[str, Fields]]]) -> Iterator[list[tuple[str, Fields]]]:
    """What chunks.json adds: who wrote a chunk and how long it is. Splits and windows are the log's."""
    names = ("sender", *LENGTH_NAMES, "length_bucket")
    for block in blocks:
        yield [(name, {key: item[key] for key in names if key in item}) for name, item in block]


def _require_assigned(table: ChunkTable, path: Path) -> None:
    unknown = np.flatnonzero((table.split == UNKNOWN) | (table.window_idx == UNKNOWN))
    if len(unknown):
        raise InputError(
            f"chunk {table.chunk_ids[int(unknown[0])].as_py()} has no split or no window_idx",
            where=str(path),
            hint="assignments map each chunk id to its split, thread_id and window_idx",
        )
    if len(table.distinct()) != len(table):
        raise InputError("a chunk is listed twice", where=str(path))
