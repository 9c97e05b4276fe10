"""Where a mail went, and why: read back from the log and its data files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson

from jobs.assignments.archive import Archive
from jobs.contracts.errors import MissingInputError
from jobs.contracts.records import SPLITS, Assignment, Exclusion, Json, Link, short_digest
from jobs.intake.placing import SplitRule
from jobs.intake.reading import read_data


@dataclass(slots=True)
class Trace:
    """What the archive knows of one mail."""

    message_id: str
    digest: str
    """The id's short digest."""
    thread_id: str
    split: str
    why: str
    """Why it is in that split."""
    window_idx: int
    targets: list[str]
    """Chunks in which its text is a target: several where it was cut into parts."""
    thread_chunks: int
    mail: Json | None
    """The decoded record; None where it has been deleted."""
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ThreadTrace:
    """What the archive knows of one thread."""

    thread_id: str
    split: str
    chunks: dict[str, int]
    """Its chunks in the log's order, each with its window_idx."""
    messages: list[str]
    """Ids of its messages in the log's order; the short digest of one whose record has been deleted."""


def trace_thread(archive: Archive, thread_id: str) -> ThreadTrace | None:
    """A thread's chunks and messages; None where the log holds none of that id."""
    rows = [row for row in _rows_with(archive, thread_id) if row.thread_id == thread_id]
    if not rows:
        return None
    windows, splits = {row.window_idx for row in rows}, {row.split for row in rows}
    digests = dict.fromkeys(digest for row in rows for digest in row.messages)
    names = {}
    for record in read_data(archive, "messages", windows=windows, splits=splits):
        if (digest := short_digest(record["message_id"])) in digests:
            names[digest] = record["message_id"]
    chunks = {row.chunk_id: row.window_idx for row in rows}
    return ThreadTrace(thread_id, rows[0].split, chunks, [names.get(digest, digest) for digest in digests])


def trace_message(archive: Archive, message_id: str) -> Trace:
    """Where a mail went, by its id or that id's short digest. MissingInputError where it is not in the archive."""
    message_id = message_id.strip().removeprefix("<").removesuffix(">")
    digest = short_digest(message_id)
    rows = _targets_of(archive, digest)
    if not rows and _DIGEST.fullmatch(message_id):
        digest = message_id
        rows = _targets_of(archive, digest)
    if not rows:
        ghost = next((row for row in _rows_with(archive, digest) if digest in row.ghosts), None)
        known = f"; mail of {ghost.thread_id} refers to it" if ghost else ""
        raise MissingInputError(
            f"no mail {message_id} in the archive{known}",
            where=archive.store.url,
            hint="the rejects file that `refrain parse` wrote tells what was not taken, and why",
        )
    row = rows[0]
    parameters = archive.log.parameters() or {}
    record = _mail(archive, row, digest)
    trace = Trace(
        message_id=record["message_id"] if record else message_id,
        digest=digest,
        thread_id=row.thread_id,
        split=row.split,
        why=_why(row, parameters),
        window_idx=row.window_idx,
        targets=[one.chunk_id for one in rows],
        thread_chunks=sum(one.thread_id == row.thread_id for one in _rows_with(archive, row.thread_id)),
        mail=record,
    )
    trace.notes = list(_notes(archive, row.thread_id, digest))
    return trace


def find_chunk(archive: Archive, chunk_id: str) -> Json:
    """A chunk's record. MissingInputError where there is none of that id, or its text has been deleted."""
    row = next((row for row in _rows_with(archive, chunk_id) if row.chunk_id == chunk_id), None)
    if row is None:
        raise MissingInputError(f"no chunk {chunk_id} in the log", where=archive.store.url)
    chunk: Json
    for chunk in read_data(archive, "chunks", windows={row.window_idx}, splits={row.split}):
        if chunk["chunk_id"] == chunk_id:
            return chunk
    raise MissingInputError(f"the text of {chunk_id} is not in the archive", where=archive.store.url)


_DIGEST = re.compile("[0-9a-f]{32}")


def _targets_of(archive: Archive, digest: str) -> list[Assignment]:
    """The rows in which a message's text is a target."""
    return [row for row in _rows_with(archive, digest) if digest in row.messages]


def _rows_with(archive: Archive, needle: str) -> Iterator[Assignment]:
    """Rows in whose encoded form a string stands: a cheap look before a row is decoded."""
    sought = needle.encode()
    for segment in archive.log.segments():
        if sought in segment.body:
            for line in segment.body.splitlines():
                if sought in line:
                    yield Assignment(**orjson.loads(line))


def _mail(archive: Archive, row: Assignment, digest: str) -> Json | None:
    record: Json
    for record in read_data(archive, "messages", windows={row.window_idx}, splits={row.split}):
        if short_digest(record["message_id"]) == digest:
            return record
    return None


def _why(row: Assignment, parameters: Json) -> str:
    seed, ratios = parameters["seed"], tuple(parameters["ratios"])
    rule = SplitRule(seed, ratios)
    if rule.split_of(row.thread_id) != row.split:
        return "its thread was taken over with that split"
    shares = ", ".join(f"{split} {weight / sum(ratios):.0%}" for split, weight in zip(SPLITS, ratios, strict=True))
    return f"its thread's hash falls at {rule.position(row.thread_id):.4f} of {shares} (seed {seed})"


def _notes(archive: Archive, thread_id: str, digest: str) -> Iterator[str]:
    for record in read_data(archive, "links"):
        link = Link(**record)
        if link.message == digest:
            yield f"it joined {link.thread_id} and {link.other_thread_id}, which stay apart"
    for record in read_data(archive, "exclusions"):
        exclusion = Exclusion(**record)
        if exclusion.id == thread_id:
            yield f"its thread is out of the scores from window {exclusion.window_idx}: joined with {exclusion.other}"
        elif exclusion.id == digest:
            yield (
                f"it is out of the scores from window {exclusion.window_idx}: "
                f"{exclusion.score:.0%} of it stands in a train message ({exclusion.other})"
            )
