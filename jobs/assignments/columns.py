"""Rows of the log as columns: what millions of them are held as. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jobs.assignments.digests import WIDTH, Bytes, Ints, SmallInts, pack
from jobs.contracts.errors import IntegrityError
from jobs.contracts.records import SPLITS, Assignment, short_digest, split_chunk_id

DIGEST_COLUMNS = ("messages", "contents", "ghosts")

THREAD_BYTES = 12
"""What a thread id of ours holds: 24 hex digits."""
_OUR_THREAD = re.compile(r"thread_([0-9a-f]{24})")


@dataclass(slots=True)
class DigestColumn:
    """The digests of many rows, one after another, and the row of each."""

    digests: Bytes
    rows: Ints


@dataclass(slots=True)
class Columns:
    """Rows of the log, by number from 0."""

    thread_keys: Bytes
    """(n, 16): the 12 bytes of a thread id of ours and zeros, or the short digest of another one."""
    k: Ints
    """-1 for a chunk id that is not `<thread_id>_window_<k>`."""
    split: SmallInts
    """Index into SPLITS."""
    window_idx: Ints
    digests: dict[str, DigestColumn]
    """By name (DIGEST_COLUMNS); empty where they were not asked for."""
    foreign_threads: dict[int, str] = field(default_factory=dict)
    """By row: thread ids not of our form."""
    foreign_chunks: dict[int, str] = field(default_factory=dict)
    """By row: chunk ids where k is -1."""

    def __len__(self) -> int:
        return len(self.k)


def is_our_thread(thread_id: str) -> bool:
    """Whether a thread id is `thread_` and 24 hex digits."""
    return _OUR_THREAD.fullmatch(thread_id) is not None


def thread_keys(thread_ids: Sequence[str]) -> Bytes:
    """What stands for thread ids in `Columns`."""
    keys = b"".join(map(_thread_key, thread_ids))
    return np.frombuffer(keys, np.uint8).reshape(-1, WIDTH)


def _thread_key(thread_id: str) -> bytes:
    ours = _OUR_THREAD.fullmatch(thread_id)
    return bytes.fromhex(ours[1]).ljust(WIDTH, b"\0") if ours else bytes.fromhex(short_digest(thread_id))


def concatenated(parts: Sequence[Columns]) -> Columns:
    """Several columns as one; at least one."""
    starts = np.cumsum([0, *map(len, parts[:-1])]).tolist()
    return Columns(
        thread_keys=np.concatenate([part.thread_keys for part in parts]),
        k=np.concatenate([part.k for part in parts]),
        split=np.concatenate([part.split for part in parts]),
        window_idx=np.concatenate([part.window_idx for part in parts]),
        digests={
            name: DigestColumn(
                np.concatenate([part.digests[name].digests for part in parts]),
                np.concatenate([part.digests[name].rows + np.int32(s) for s, part in zip(starts, parts, strict=True)]),
            )
            for name in parts[0].digests
        },
        foreign_threads=_moved([part.foreign_threads for part in parts], starts),
        foreign_chunks=_moved([part.foreign_chunks for part in parts], starts),
    )


def _moved(parts: Sequence[dict[int, str]], starts: Sequence[int]) -> dict[int, str]:
    return {start + row: value for start, part in zip(starts, parts, strict=True) for row, value in part.items()}


def columns_of_rows(rows: Sequence[Assignment], *, digests: bool = True) -> Columns:
    """Rows of any form as columns, one by one. IntegrityError where one is not what it should be."""
    ks = [_k(row) for row in rows]
    return Columns(
        thread_keys=thread_keys([row.thread_id for row in rows]),
        k=np.array(ks, np.int32),
        split=np.array([_split(row) for row in rows], np.int8),
        window_idx=np.array([row.window_idx for row in rows], np.int32),
        digests={name: _digest_column(rows, name) for name in DIGEST_COLUMNS if digests},
        foreign_threads={i: row.thread_id for i, row in enumerate(rows) if not is_our_thread(row.thread_id)},
        foreign_chunks={i: row.chunk_id for i, (row, k) in enumerate(zip(rows, ks, strict=True)) if k < 0},
    )


def _k(row: Assignment) -> int:
    try:
        thread_id, k = split_chunk_id(row.chunk_id)
    except ValueError:
        return -1
    canonical = f"{thread_id}_window_{k}" == row.chunk_id
    return k if thread_id == row.thread_id and canonical and k < 2**31 else -1


def _split(row: Assignment) -> int:
    try:
        return SPLITS.index(row.split)
    except ValueError as error:
        raise IntegrityError(f"chunk {row.chunk_id} has the split {row.split!r}") from error


def _digest_column(rows: Sequence[Assignment], name: str) -> DigestColumn:
    listed: list[list[str]] = [getattr(row, name) for row in rows]
    counts: Any = [len(digests) for digests in listed]
    try:
        digests = pack([digest for digests in listed for digest in digests])
    except ValueError as error:
        raise IntegrityError(f"{name}: {error}") from error
    return DigestColumn(digests, np.repeat(np.arange(len(rows), dtype=np.int32), counts))
