"""What is scored: the chunks of val and test, without the messages that are masked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from jobs.contracts.errors import InputError, IntegrityError
from jobs.contracts.records import Chunk, Split, short_digest
from jobs.files import read_json

Texts = Callable[[Collection[str]], Iterable[Chunk]]


@dataclass(frozen=True, slots=True)
class EvalSet:
    """The chunks of one split, in the order of their ids."""

    split: Split
    chunks: list[Chunk]
    masked: dict[str, frozenset[str]]
    """By chunk, short digests of the messages that do not count."""

    def targets(self) -> list[str]:
        """Message-IDs of the mails whose text counts."""
        return [
            message.message_id
            for chunk in self.chunks
            for message in chunk.messages
            if not message.context and short_digest(message.message_id) not in self.masked[chunk.chunk_id]
        ]


def read_eval_set(path: Path, split: Split, texts: Texts) -> EvalSet:
    """The chunks that a val.json or test.json lists, with their texts.

    InputError for another list, IntegrityError for a chunk of another split, and what reading texts raises.
    """
    entries = read_json(path)
    hint = f"give the list that `refrain window --split {split}` wrote"
    try:
        masked = {str(one["chunk_id"]): frozenset(one.get("masked_messages", ())) for one in entries}
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError("not a list of chunks", where=str(path), hint=hint) from error
    chunks = sorted(texts(masked.keys()), key=lambda chunk: chunk.chunk_id) if masked else []
    for chunk in chunks:
        if chunk.split != split:
            what = f"chunk {chunk.chunk_id} is of {chunk.split}, not of {split}: it would be scored on what it is not"
            raise IntegrityError(what, where=str(path), hint=hint)
    return EvalSet(split, chunks, masked)
