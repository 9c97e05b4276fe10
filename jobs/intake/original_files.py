"""What stands beside an assignments.json of the original's shape: chunks.json, length_metadata.json and splits/.

Arrays, maps and JSON lines are taken alike, and so is what we write ourselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from jobs.contracts.errors import InputError
from jobs.contracts.records import LENGTH_NAMES, Json, Length, length_bucket
from jobs.files import read_json, read_records
from jobs.mail import headers
from jobs.mail.headers import message_id

_REFERRING = ("references", "in_reply_to")
_UNKNOWN_BUCKET = -1


@dataclass(frozen=True, slots=True)
class OriginalFiles:
    """Their records, as they stand there."""

    chunks: dict[str, Json]
    """By chunk id."""
    lengths: dict[str, Json]
    """By chunk id."""
    mails: dict[str, Json]
    """Decoded mails by Message-ID, in their order."""

    @classmethod
    def read(cls, folder: Path, splits: Iterable[Path]) -> OriginalFiles:
        """The files of a folder, and the decoded mails of some more; what is not there is empty."""
        lengths = [folder / name for name in ("length_metadata.json", "length_buckets.json")]
        return cls(
            chunks=dict(_keyed(_records([folder / "chunks.json"]))),
            lengths=dict(_keyed(_records(lengths))),
            mails=dict(_mails(_records(splits))),
        )

    def members(self, entries: Json) -> dict[str, list[str]]:
        """The Message-IDs of each chunk's mail; mail of which only the thread is known goes to its first chunk."""
        members: dict[str, list[str]] = {chunk_id: [] for chunk_id in entries}
        listed: set[str] = set()
        for chunk_id, chunk in self.chunks.items():
            for own_id in _targets(chunk) if chunk_id in members else ():
                if own_id not in listed:
                    listed.add(own_id)
                    members[chunk_id].append(own_id)
        first_chunk: dict[str, str] = {}
        for chunk_id, entry in entries.items():
            if isinstance(entry, dict):
                first_chunk.setdefault(str(entry.get("thread_id")), chunk_id)
        for own_id, mail in self.mails.items():
            if own_id not in listed and str(mail["thread_id"]) in first_chunk:
                members[first_chunk[str(mail["thread_id"])]].append(own_id)
        return members

    def references(self, message_ids: Iterable[str]) -> set[str]:
        """The Message-IDs that these mails refer to, as far as their records tell."""
        fields = (self.mails[own_id].get(name) for own_id in message_ids if own_id in self.mails for name in _REFERRING)
        return {
            reference
            for field in fields
            for value in (field if isinstance(field, list) else [field])
            if isinstance(value, str)
            for reference in headers.message_ids(value)
        }

    def length(self, chunk_id: str) -> Length:
        """Whose a chunk is, and how long; nobody's and 0 tokens where nothing tells."""
        told = self.chunks.get(chunk_id, {}) | self.lengths.get(chunk_id, {})
        sender = told.get("sender")
        num_tokens = next((told[name] for name in LENGTH_NAMES if _is_count(told.get(name))), 0)
        num_target_tokens, bucket = told.get("num_target_tokens"), told.get("length_bucket")
        return Length(
            chunk_id,
            sender if isinstance(sender, str) else "",
            num_tokens,
            num_target_tokens if _is_count(num_target_tokens) else num_tokens,
            bucket if _is_count(bucket) else (length_bucket(num_tokens) if num_tokens else _UNKNOWN_BUCKET),
        )


def _records(paths: Iterable[Path]) -> Iterator[Any]:
    """The elements of arrays and lines, and maps as they are; what is not there is passed over."""
    for path in paths:
        if not path.exists():
            continue
        try:
            value = read_json(path)
        except InputError:
            yield from read_records(path)  # JSON lines, or the error of the line that is none
        else:
            yield from value if isinstance(value, list) else [value]


def _keyed(records: Iterable[Any]) -> Iterator[tuple[str, Json]]:
    """What is said of chunks, by id: from records that name theirs, from a map, or from a map of length buckets."""
    for record in records:
        if not isinstance(record, dict):
            continue
        if "chunk_id" in record:
            yield str(record["chunk_id"]), record
            continue
        for name, said in record.items():
            if isinstance(said, dict):
                yield name, said
            elif _is_count(said):
                yield name, {"num_tokens": said}
            elif isinstance(said, list) and name.isdecimal():
                yield from ((str(one), {"length_bucket": int(name)}) for one in said)


def _mails(records: Iterable[Any]) -> Iterator[tuple[str, Json]]:
    for record in records:
        if isinstance(record, dict) and "thread_id" in record and isinstance(record.get("message_id"), str):
            own_id = _without_brackets(record["message_id"])
            yield own_id, record | {"message_id": own_id}


def _targets(chunk: Json) -> Iterator[str]:
    """The Message-IDs of a chunk's mail, context left out."""
    for message in chunk.get("message_ids") or chunk.get("messages") or ():
        own_id = message.get("message_id") if isinstance(message, dict) else message
        context = isinstance(message, dict) and message.get("context")
        if isinstance(own_id, str) and not context:
            yield _without_brackets(own_id)


def _without_brackets(own_id: str) -> str:
    return message_id(own_id) or own_id if own_id.startswith("<") else own_id


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 1 << 31
