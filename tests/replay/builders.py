"""Chunks for the tests of rehearsal, made without a random generator."""

from __future__ import annotations

import hashlib

from jobs.contracts.records import ManifestEntry, Split, length_bucket


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
    entries = []
    for thread in range(num_threads):
        split: Split = {8: "val", 9: "test"}.get(thread % 10, "train")  # type: ignore[assignment]
        first = number("window", thread, below=num_windows)
        for k in range(1 + number("size", thread, below=5)):
            entries.append(
                entry(
                    f"thread_{thread:03d}_window_{k}",
                    f"thread_{thread:03d}",
                    sender=f"user{number('sender', thread, k, below=num_senders)}@example.org",
                    split=split,
                    window=min(num_windows - 1, first + k),
                    tokens=20 + number("tokens", thread, k, below=1500),
                )
            )
    return sorted(entries, key=lambda one: one.window_idx)
