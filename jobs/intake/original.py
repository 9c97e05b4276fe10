"""Assignments of the original's shape, taken over into a log: a map of chunk id to split, thread and window.

The map does not tell which mail it stands for; chunks.json beside it does, or the records in splits/.
Threads keep their ids, splits and windows, and grow from there; texts, records and lengths come along.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jobs.assignments.archive import Archive
from jobs.assignments.segment import DataFile, Draft, Head
from jobs.contracts.errors import ConfigError, InputError
from jobs.contracts.records import SPLITS, Assignment, Json, short_digest
from jobs.files import read_json
from jobs.intake.data_files import DataFiles, length_table
from jobs.intake.original_files import OriginalFiles
from jobs.intake.overlap import fingerprints_file
from jobs.mail.quoting import quoted_levels

TAKEN_OVER = "taken-over"
"""What stands for a cycle in the segments' headers."""


def is_to_be_taken_over(archive: Archive) -> bool:
    """Whether an archive is empty, or holds nothing but what was taken over: that may have been stopped half-way."""
    return all(header.cycle == TAKEN_OVER for header in archive.headers())


def take_over(archive: Archive, assignments: Path, splits: Iterable[Path], parameters: Json) -> int:
    """Put the rows of an assignments.json into an archive, a segment per window; how many rows there were.

    `splits` are the files of decoded mails. Windows that were taken over before are passed over.
    Raises InputError for a map of another shape, ConfigError where nothing tells which mail the rows stand for.
    """
    entries = read_json(assignments)
    if not isinstance(entries, dict):
        raise InputError("not a map of chunk ids", where=str(assignments))
    if not entries:
        return 0
    files = OriginalFiles.read(assignments.parent, splits)
    members = files.members(entries)
    if not any(members.values()):
        raise ConfigError(
            "nothing tells which mail its rows stand for: neither its archive, nor chunks.json, nor splits/ is there",
            where=str(assignments),
            hint="bring back the folder assignments.archive, or chunks.json with message ids, beside it",
        )
    windows: dict[int, list[Assignment]] = defaultdict(list)
    here = {own_id for own_ids in members.values() for own_id in own_ids}
    for chunk_id, entry in entries.items():
        text = files.chunks.get(chunk_id, {}).get("text")
        row = _row(chunk_id, entry, members[chunk_id], text if isinstance(text, str) else None, str(assignments))
        row.ghosts.extend(sorted(map(short_digest, files.references(members[chunk_id]) - here)))
        windows[row.window_idx].append(row)
    done = {header.window_idx for header in archive.headers()}
    for window_idx, rows in sorted(windows.items()):
        if window_idx not in done:
            data = _data(archive, window_idx, rows, members, files)
            draft = Draft(rows, window_idx, parameters, TAKEN_OVER, files=data)
            archive.log.append(partial(_always, draft))
    return len(entries)


def _always(draft: Draft, _head: Head) -> Draft:
    return draft


def _row(chunk_id: str, entry: Any, message_ids: list[str], text: str | None, where: str) -> Assignment:
    try:
        thread_id, split, window_idx = str(entry["thread_id"]), entry["split"], int(entry["window_idx"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{chunk_id!r} lacks a thread_id, split or window_idx", where=where) from error
    if split not in SPLITS:
        raise InputError(f"{chunk_id!r} has the split {split!r}", where=where, hint="train, val or test")
    digests = [short_digest(one) for one in message_ids]
    text_sha256 = hashlib.sha256(text.encode()).hexdigest() if text is not None else ""
    # Nothing is known of the mails' contents: the Message-ID's digest stands for it (see Known.has_whole).
    return Assignment(chunk_id, thread_id, split, window_idx, digests, list(digests), [], text_sha256)


def _data(
    archive: Archive,
    window_idx: int,
    rows: list[Assignment],
    members: Mapping[str, list[str]],
    files: OriginalFiles,
) -> dict[str, list[DataFile]]:
    """The data files of one window: what the original's files hold of its chunks and mails."""
    chunks: dict[str, list[Json]] = {split: [] for split in SPLITS}
    mails: dict[str, list[Json]] = {split: [] for split in SPLITS}
    for row in rows:
        place = {"thread_id": row.thread_id, "split": row.split, "window_idx": window_idx}
        if row.chunk_id in files.chunks:
            chunks[row.split].append(files.chunks[row.chunk_id] | {"chunk_id": row.chunk_id} | place)
        mails[row.split] += [files.mails[one] | place for one in members[row.chunk_id] if one in files.mails]
    lengths = [files.length(row.chunk_id) for row in rows]
    with (
        tempfile.TemporaryDirectory(prefix="refrain-window-") as folder,
        DataFiles(archive, window_idx, Path(folder)) as data,
    ):
        for split in SPLITS:
            data.add_records("chunks", chunks[split], name=split)
            data.add_records("messages", mails[split], name=split)
        if any(length.num_tokens or length.sender for length in lengths):
            data.add_bytes("lengths", length_table(lengths), len(lengths), ".parquet")
        texts = [
            (one["message_id"], text, split == "train")
            for split in SPLITS
            for one in mails[split]
            for text in _texts(one, quotes=split == "train")
        ]
        data.add_bytes("fingerprints", *fingerprints_file(texts), ".npy")
        return data.written()


def _texts(mail: Json, *, quotes: bool) -> list[str]:
    """What a mail is compared by: its own text and, where asked for, what it quotes."""
    text = _as_text(mail.get("text"))
    return [_as_text(mail.get("text_unquoted", text)), *(quoted_levels(text) if quotes else ())]


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else ""
