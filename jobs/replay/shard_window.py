"""The rolling window of archived train shards: the newest stay active, the older are listed, none is deleted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.contracts.errors import InputError, MissingInputError
from jobs.contracts.records import Json
from jobs.files import read_records

_NAME = re.compile(r"^train_(.*\d.*)\.jsonl?(\.gz|\.zst)?$")
_DATE = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)")


@dataclass(frozen=True, slots=True)
class Shard:
    """The train set of one cycle, as `train --save-train-shard` archived it."""

    path: Path
    num_bytes: int

    @property
    def age(self) -> tuple[tuple[int, ...], str]:
        """What orders shards, oldest first: the date and then every other number in the name; then the name.

        Names without a date come before those with one.
        """
        stem = self.path.name.removeprefix("train_")
        date = _DATE.search(stem)
        rest = stem[date.end() :] if date else stem
        numbers = re.findall(r"\d+", rest)
        return (tuple(int(number) for number in [*(date.groups() if date else ["0"]), *numbers]), self.path.name)


@dataclass(frozen=True, slots=True)
class ShardWindow:
    """Which shards are active; both lists from the oldest to the newest."""

    active: list[Shard]
    archived: list[Shard]

    def listing(self) -> Json:
        """Both lists as JSON, by file name."""
        return {
            name: [{"file": shard.path.name, "num_bytes": shard.num_bytes} for shard in shards]
            for name, shards in (("active", self.active), ("archived", self.archived))
        }


def find_shards(folder: Path) -> list[Shard]:
    """The shards in a folder, `train_<date>.json` or `.jsonl`, compressed or not, from the oldest to the newest.

    Raises MissingInputError where there is no such folder.
    """
    if not folder.is_dir():
        raise MissingInputError("no such folder", where=str(folder))
    found = [Shard(path, path.stat().st_size) for path in folder.iterdir() if _NAME.match(path.name) and path.is_file()]
    return sorted(found, key=lambda shard: shard.age)


def choose_active(shards: list[Shard], keep: int, max_bytes: int | None = None) -> ShardWindow:
    """The newest `keep` shards that together hold at most `max_bytes`; the newest one in any case."""
    first = max(0, len(shards) - keep)
    if max_bytes is not None:
        while first < len(shards) - 1 and sum(shard.num_bytes for shard in shards[first:]) > max_bytes:
            first += 1
    return ShardWindow(active=shards[first:], archived=shards[:first])


def old_train(window: ShardWindow) -> Iterator[Any]:
    """The records of the active shards, from the oldest to the newest, each chunk once.

    A chunk that was rehearsed stands in several shards, always as the same text: its first record
    is taken. Raises InputError for a record that is neither a chunk id nor an object with one.
    """
    seen: set[str] = set()
    for shard in window.active:
        for record in read_records(shard.path):
            name = record.get("chunk_id") if isinstance(record, dict) else record
            if not isinstance(name, str):
                raise InputError(f"a record without a chunk_id: {record!r:.80}", where=str(shard.path))
            if name not in seen:
                seen.add(name)
                yield record
