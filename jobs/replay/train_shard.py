"""The archived train set of one cycle: `train_<date>.jsonl`, the very chunks that were trained on, with their texts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from jobs.contracts.errors import InputError, OutputError, UsageError
from jobs.contracts.records import Chunk, Json
from jobs.files import write_json_lines

_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def sources_of(schedule: Json) -> dict[str, str]:
    """`new` or `replay` for each chunk of a schedule; a chunk that is both is new."""
    sources: dict[str, str] = {}
    for epoch in schedule["epochs"]:
        for batch in epoch["batches"]:
            for name in batch["chunk_ids"]:
                if sources.get(name) != "new":
                    sources[name] = batch.get("source") or "new"
    return sources


def require_date(asked: str | None) -> None:
    """UsageError for what is not a date, where one is asked for."""
    if asked is not None and not _DATE.fullmatch(asked):
        raise UsageError(f"not a date: {asked!r}", where="--shard-date", hint="write it as 2025-11-04")


def shard_date(chunks: Sequence[Chunk]) -> str:
    """The date of the newest mail in some chunks; InputError where none has one."""
    newest = max((message.date for chunk in chunks for message in chunk.messages), default="")[:10]
    if not _DATE.fullmatch(newest):
        raise InputError("none of its mails has a date", where="train shard", hint="give one by --shard-date")
    return newest


def write_train_shard(folder: Path, chunks: Sequence[Chunk], sources: Mapping[str, str], date: str) -> Path:
    """Write the shard, new chunks first, each group by chunk id; its path.

    Writing the same again changes nothing; OutputError where another shard of that date is there.
    """
    path = folder / f"train_{date}.jsonl"
    listed = sorted(chunks, key=lambda chunk: (sources[chunk.chunk_id] != "new", chunk.chunk_id))
    unfinished = folder / f".train_{date}.jsonl"
    write_json_lines(unfinished, ({**asdict(chunk), "source": sources[chunk.chunk_id]} for chunk in listed))
    try:
        if path.exists() and path.read_bytes() != unfinished.read_bytes():
            raise OutputError(
                "there is another shard of that date", where=str(path), hint="give another date by --shard-date"
            )
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path
