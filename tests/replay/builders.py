"""Chunks for the tests of rehearsal, made without a random generator."""

from __future__ import annotations

import hashlib
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from jobs.assignments.archive import Archive
from jobs.assignments.segment import Draft
from jobs.contracts.records import Assignment, Exclusion, ManifestEntry, Split, length_bucket, short_digest
from jobs.files import write_json_array, write_json_object


def number(*parts: object, below: int) -> int:
    """A number that looks random and never changes."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % below


def entry(
    name: str,
    thread: str,
    *,
    sender: str = "ann@example.org",
    split: Split = "train",
    window: int = 0,
    tokens: int = 100,
) -> ManifestEntry:
    return ManifestEntry(name, thread, split, window, sender, tokens, length_bucket(tokens))


def archive(num_threads: int = 60, num_senders: int = 7, num_windows: int = 10) -> list[ManifestEntry]:
    """Threads of one to five chunks, one in ten of val and one in ten of test, in the order of their windows."""
    return sorted(
        (one for thread in range(num_threads) for one in _thread(thread, num_senders, num_windows)),
        key=lambda one: one.window_idx,
    )


def _thread(thread: int, num_senders: int, num_windows: int) -> list[ManifestEntry]:
    split: Split = {8: "val", 9: "test"}.get(thread % 10, "train")  # type: ignore[assignment]
    first = number("window", thread, below=num_windows)
    return [
        entry(
            f"thread_{thread:024x}_window_{k}",
            f"thread_{thread:024x}",
            sender=f"user{number('sender', thread, k, below=num_senders)}@example.org",
            split=split,
            window=min(num_windows - 1, first + k),
            tokens=20 + number("tokens", thread, k, below=1500),
        )
        for k in range(1 + number("size", thread, below=5))
    ]


def message_id(one: ManifestEntry) -> str:
    """The one message of a chunk."""
    return f"{one.chunk_id}@example.org"


def write_files(folder: Path, entries: list[ManifestEntry], exclusions: list[Exclusion] | None = None) -> Path:
    """The archive as split exports it; the path of assignments.json."""
    assignments = folder / "assignments.json"
    write_json_object(
        assignments,
        (
            (one.chunk_id, {"split": one.split, "thread_id": one.thread_id, "window_idx": one.window_idx})
            for one in entries
        ),
    )
    write_json_array(
        folder / "chunks.json",
        (
            {"chunk_id": one.chunk_id, "sender": one.sender, "messages": [{"message_id": message_id(one)}], "text": "x"}
            for one in entries
        ),
    )
    write_json_object(
        folder / "length_metadata.json",
        (
            (one.chunk_id, {"sender": one.sender, "num_tokens": one.num_tokens, "length_bucket": one.length_bucket})
            for one in entries
        ),
    )
    write_json_array(folder / "exclusions.json", exclusions or [])
    return assignments


def write_archive(folder: Path, entries: list[ManifestEntry], exclusions: list[Exclusion] | None = None) -> Archive:
    """The archive as split commits it: a segment for each window, by a cycle called c and its number."""
    archive = Archive.open(str(folder))
    for window in sorted({one.window_idx for one in entries}):
        own = [one for one in entries if one.window_idx == window]
        files = {
            "lengths": [
                archive.write_data("lengths", window, "all", _parquet(own), num_rows=len(own), suffix=".parquet")
            ]
        }
        if rules := [rule for rule in exclusions or [] if rule.window_idx == window]:
            lines = zstandard.compress(b"".join(orjson.dumps(rule) + b"\n" for rule in rules))
            files["exclusions"] = [
                archive.write_data("exclusions", window, "all", lines, num_rows=len(rules), suffix=".jsonl.zst")
            ]
        draft = Draft([_row(one) for one in own], window, {"seed": 42}, cycle=f"c{window}", files=files)
        archive.log.append(lambda _head, draft=draft: draft)  # type: ignore[misc]
    return archive


def _row(one: ManifestEntry) -> Assignment:
    digest = short_digest(message_id(one))
    return Assignment(one.chunk_id, one.thread_id, one.split, one.window_idx, [digest], [digest], [], digest * 2)


def _parquet(entries: list[ManifestEntry]) -> bytes:
    table = pa.table(
        {
            "chunk_id": [one.chunk_id for one in entries],
            "sender": pa.array([one.sender for one in entries]).dictionary_encode(),
            "num_tokens": pa.array([one.num_tokens for one in entries], pa.int32()),
            "num_target_tokens": pa.array([one.num_tokens for one in entries], pa.int32()),
            "length_bucket": pa.array([one.length_bucket for one in entries], pa.int8()),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())
