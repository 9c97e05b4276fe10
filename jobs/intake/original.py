"""Assignments of the original's shape, taken over into a log: a map of chunk id to split, thread and window.

The map does not tell which mail it stands for; chunks.json beside it does, or the records in splits/.
Threads keep their ids, splits and windows, and grow from there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from jobs.assignments.archive import Archive
from jobs.assignments.segment import Draft, Head
from jobs.contracts.errors import ConfigError, InputError
from jobs.contracts.records import SPLITS, Assignment, Json, short_digest
from jobs.files import read_json, read_records

TAKEN_OVER = "taken-over"
"""What stands for a cycle in the segments' headers."""


def take_over(archive: Archive, assignments: Path, splits: Path, parameters: Json) -> int:
    """Begin an empty archive with the rows of an assignments.json, a segment per window; how many rows there were.

    Raises InputError for a map of another shape, ConfigError where nothing tells which mail the rows stand for.
    """
    entries = read_json(assignments)
    if not isinstance(entries, dict):
        raise InputError("not a map of chunk ids", where=str(assignments))
    if not entries:
        return 0
    members = _members(entries, assignments.parent / "chunks.json", splits)
    if not any(members.values()):
        raise ConfigError(
            "nothing tells which mail its rows stand for: neither its archive, nor chunks.json, nor splits/ is there",
            where=str(assignments),
            hint="bring back the folder assignments.archive, or chunks.json with message ids, beside it",
        )
    windows: dict[int, list[Assignment]] = defaultdict(list)
    for chunk_id, entry in entries.items():
        row = _row(chunk_id, entry, members[chunk_id], str(assignments))
        windows[row.window_idx].append(row)
    for window_idx, rows in sorted(windows.items()):
        draft = Draft(rows, window_idx, parameters, TAKEN_OVER)
        archive.log.append(partial(_always, draft))
    return len(entries)


def _always(draft: Draft, _head: Head) -> Draft:
    return draft


def _row(chunk_id: str, entry: Any, message_ids: list[str], where: str) -> Assignment:
    try:
        thread_id, split, window_idx = str(entry["thread_id"]), entry["split"], int(entry["window_idx"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{chunk_id!r} lacks a thread_id, split or window_idx", where=where) from error
    if split not in SPLITS:
        raise InputError(f"{chunk_id!r} has the split {split!r}", where=where, hint="train, val or test")
    digests = [short_digest(one) for one in message_ids]
    # Nothing is known of the mails' contents: the Message-ID's digest stands for it (see Known.has_whole).
    return Assignment(chunk_id, thread_id, split, window_idx, digests, list(digests), [], "")


def _members(entries: Json, chunks: Path, splits: Path) -> dict[str, list[str]]:
    """The Message-IDs of each chunk's mail; mail of which only the thread is known goes to its first chunk."""
    members: dict[str, list[str]] = {chunk_id: [] for chunk_id in entries}
    listed: set[str] = set()
    for chunk_id, message_id in _from_chunks(chunks):
        if chunk_id in members and message_id not in listed:
            listed.add(message_id)
            members[chunk_id].append(message_id)
    first_chunk: dict[str, str] = {}
    for chunk_id, entry in entries.items():
        if isinstance(entry, dict):
            first_chunk.setdefault(str(entry.get("thread_id")), chunk_id)
    for thread_id, message_id in _from_splits(splits):
        if thread_id in first_chunk and message_id not in listed:
            listed.add(message_id)
            members[first_chunk[thread_id]].append(message_id)
    return members


def _from_chunks(path: Path) -> Iterator[tuple[str, str]]:
    if not path.exists():
        return
    for chunk_id, chunk in _keyed(read_records(path)):
        for message in chunk.get("message_ids") or chunk.get("messages") or []:
            message_id = message.get("message_id") if isinstance(message, dict) else message
            context = isinstance(message, dict) and message.get("context")
            if isinstance(message_id, str) and not context:
                yield chunk_id, message_id


def _keyed(records: Iterable[Any]) -> Iterator[tuple[str, Json]]:
    """Chunks by id, from records that name theirs or from one map."""
    for record in records:
        if not isinstance(record, dict):
            continue
        if "chunk_id" in record:
            yield str(record["chunk_id"]), record
        else:
            yield from ((str(name), chunk) for name, chunk in record.items() if isinstance(chunk, dict))


def _from_splits(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.glob("*.json*")) if folder.is_dir() else []:
        for record in read_records(path):
            if isinstance(record, dict) and "thread_id" in record and "message_id" in record:
                yield str(record["thread_id"]), str(record["message_id"])
