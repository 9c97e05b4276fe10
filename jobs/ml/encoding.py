"""Texts as token ids, and which of them are targets.

A text is tokenised segment by segment (`jobs.mail.template.segments`), without special tokens, so that
the counts are those that split wrote down. Where the tokenizer begins a text with a token of its own
(BOS), that stands before it; it is never counted or scored. A mail that spells a special token, such
as the end-of-text, has these letters and not that token.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jobs.contracts.records import Chunk, ChunkMessage, short_digest
from jobs.mail.template import Segment, render_prompt, segments
from jobs.ml.tokens import ModelCounter

if TYPE_CHECKING:
    from numpy.typing import NDArray

IGNORED = -100
"""Label of a token that is no target."""
NO_MESSAGE = -1


@dataclass(frozen=True, slots=True)
class Example:
    """One chunk as a model reads it. All arrays have one entry a token."""

    chunk_id: str
    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    """The token itself where it is a target, else IGNORED; not shifted."""
    message: NDArray[np.int16]
    """Index into `Chunk.messages` of the body that a target is part of; -1 elsewhere."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_targets(self) -> int:
        """How many tokens are targets."""
        return int((self.labels != IGNORED).sum())


class Encoder:
    """Encodes by a base model's tokenizer, just as split counts by it. `load_encoder` makes one.

    `start` is what the tokenizer puts before a text, `end_id` its end-of-text token, and `stop_ids` are
    further tokens that end what a model writes.
    """

    def __init__(
        self, tokenizer: ModelCounter, *, end_id: int, start: Sequence[int] = (), stop_ids: Sequence[int] = ()
    ) -> None:
        self.end_id = end_id
        self.stop_ids = sorted({end_id, *stop_ids})
        self._start = list(start)
        self._tokenizer = tokenizer

    @property
    def num_start_tokens(self) -> int:
        """How many tokens stand before a text that its counts do not know: 1 where there is a BOS, else 0."""
        return len(self._start)

    def example(self, chunk: Chunk, *, masked: Collection[str] = (), stops: bool = False) -> Example:
        """A chunk's tokens and targets: those of the bodies outside the overlap.

        `masked` are short digests of Message-IDs that are not scored. With `stops`, for training, what ends a
        mail is a target too: the blank line behind its body (its last part's, where it is cut), and the one
        token after that.
        """
        pieces = list(segments(chunk.text, [(message.start, message.end) for message in chunk.messages]))
        ids = self._encode(chunk.text, pieces)
        tokens = np.array([*self._start, *(token for piece in ids for token in piece), self.end_id], np.int32)
        labels = np.full(len(tokens), IGNORED, np.int32)
        owner = np.full(len(tokens), NO_MESSAGE, np.int16)
        position, number = len(self._start), -1
        for piece, piece_ids in zip(pieces, ids, strict=True):
            end = position + len(piece_ids)
            number += piece.kind == "body"
            message = chunk.messages[max(number, 0)]
            if piece.kind == "body" and _is_target(message, masked):
                labels[position:end] = tokens[position:end]
                owner[position:end] = number
            elif piece.kind == "end" and stops and _is_target(message, masked) and _is_last_part(message):
                labels[position : end + 1] = tokens[position : end + 1]
            position = end
        return Example(chunk.chunk_id, tokens, labels, owner)

    def prompt(self, subject: str, messages: Sequence[tuple[str, str, str]], sender: str, date: str) -> list[int]:
        """The tokens that a model is to go on from; messages are (sender, date, body). See `render_prompt`."""
        text, bodies = render_prompt(subject, messages, sender, date)
        pieces = list(segments(text, bodies))
        pieces.append(Segment("header", pieces[-1].end, len(text)))
        return [*self._start, *(token for piece in self._encode(text, pieces) for token in piece)]

    def plain(self, text: str) -> list[int]:
        """The tokens of a text that is not of the template: what a model is to go on from just as it stands."""
        return [*self._start, *next(iter(self._tokenizer.encode([text])))]

    def count(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text by itself, as split counts them."""
        return self._tokenizer.count(texts)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        return self._tokenizer.decode(ids)

    def _encode(self, text: str, pieces: Sequence[Segment]) -> list[list[int]]:
        return list(self._tokenizer.encode([text[piece.start : piece.end] for piece in pieces]))


def _is_target(message: ChunkMessage, masked: Collection[str]) -> bool:
    return not message.context and short_digest(message.message_id) not in masked


def _is_last_part(message: ChunkMessage) -> bool:
    """A mail that was cut goes on in the next chunk: a model must not learn to end there."""
    return message.part == message.num_parts - 1
