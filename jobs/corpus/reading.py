"""Chunks and messages by what is asked for: from an archive, or from the plain files that split exports."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from jobs.contracts.errors import InputError, MissingInputError, UsageError
from jobs.contracts.records import SPLITS, Chunk, ChunkMessage, Json, Message, split_chunk_id
from jobs.files import read_records
from jobs.intake.reading import read_data

if TYPE_CHECKING:
    from jobs.assignments.archive import Archive

Paths = Mapping[str, Sequence[Path]]


class Corpus(Protocol):
    """The texts of an archive."""

    def chunks(self, chunk_ids: Collection[str]) -> Iterator[Chunk]:
        """The chunks of these ids, by commit and split; MissingInputError where the text of one is not there."""
        ...

    def messages(self, upto_window: int | None = None) -> Iterator[Message]:
        """All decoded mails, or those of the windows up to one; a fixed order, whichever was asked first."""
        ...


def open_corpus(paths: Paths, archive: Archive | None) -> Corpus:
    """The texts of the archive where there is one, else those of plain files.

    `paths` names these by kind: `chunks` (`chunks.json`; by default beside `assignments`) and `messages`
    (the files of `splits/`, or that folder). UsageError where neither is known.
    """
    return FileCorpus(paths) if archive is None else ArchiveCorpus(archive)


class ArchiveCorpus:
    """See `Corpus`. Reads only the files of windows and splits that hold what is asked for."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def chunks(self, chunk_ids: Collection[str]) -> Iterator[Chunk]:
        """See `Corpus`."""
        table = self._archive.table()
        threads = sorted({_thread_of(one) for one in chunk_ids})
        rows = np.flatnonzero(np.isin(table.thread, table.thread_codes(threads))) if threads else np.empty(0, np.int64)
        windows = set(table.window_idx[rows].tolist())
        splits = {SPLITS[code] for code in np.unique(table.split[rows]).tolist()}
        records = read_data(self._archive, "chunks", windows=windows, splits=splits)
        return _wanted(records, chunk_ids, self._archive.store.url)

    def messages(self, upto_window: int | None = None) -> Iterator[Message]:
        """See `Corpus`."""
        headers = [h for h in self._archive.headers() if upto_window is None or h.window_idx <= upto_window]
        for record in read_data(self._archive, "messages", headers=headers):
            yield as_record(Message, record, self._archive.store.url)


class FileCorpus:
    """See `Corpus`."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def chunks(self, chunk_ids: Collection[str]) -> Iterator[Chunk]:
        """See `Corpus`."""
        paths = self._paths.get("chunks") or [
            path.with_name("chunks.json") for path in self._paths.get("assignments", [])
        ]
        if not paths:
            raise UsageError("needs the texts of the chunks", hint="name the chunks.json that `refrain split` wrote")
        records = chain.from_iterable(map(read_records, paths))
        return _wanted(records, chunk_ids, ", ".join(map(str, paths)))

    def messages(self, upto_window: int | None = None) -> Iterator[Message]:
        """See `Corpus`."""
        paths = self._paths.get("messages") or self._beside_assignments("splits")
        if not paths:
            raise UsageError("needs the decoded mails", hint="name the splits folder that `refrain split` wrote")
        for path in chain.from_iterable(map(_files, paths)):
            for record in read_records(path):
                message = as_record(Message, record, str(path))
                if upto_window is None or message.window_idx <= upto_window:
                    yield message

    def _beside_assignments(self, name: str) -> list[Path]:
        return [path.with_name(name) for path in self._paths.get("assignments", [])]


def as_chunk(record: Json, where: str) -> Chunk:
    """A JSON object as a chunk; InputError where it is none."""
    chunk = as_record(Chunk, record, where)
    chunk.messages = [as_record(ChunkMessage, one, where) for one in record["messages"]]
    return chunk


R = TypeVar("R")


def as_record(kind: type[R], record: Any, where: str) -> R:
    """A JSON object as a record; what it has beyond the record's fields is passed over. InputError."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    try:
        return kind(**{name: value for name, value in record.items() if name in names})
    except (AttributeError, TypeError) as error:
        raise InputError(f"not a {kind.__name__.lower()}: {record!r:.80}", where=where) from error


def _wanted(records: Iterable[Json], chunk_ids: Collection[str], where: str) -> Iterator[Chunk]:
    missing = set(chunk_ids)
    for record in records:
        if isinstance(record, dict) and record.get("chunk_id") in missing:
            missing.discard(record["chunk_id"])
            yield as_chunk(record, where)
    if missing:
        others = f", nor those of {len(missing) - 1} others" if len(missing) > 1 else ""
        raise MissingInputError(
            f"the text of chunk {min(missing)} is not there{others}",
            where=where,
            hint="make the lists and the schedule again: texts may have been deleted since",
        )


def _thread_of(chunk_id: str) -> str:
    try:
        return split_chunk_id(chunk_id)[0]
    except ValueError as error:
        raise InputError(str(error)) from error


def _files(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]
