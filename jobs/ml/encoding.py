"""Texts as token ids, and which of them are targets.

A text is tokenised segment by segment (`jobs.mail.template.segments`), without special tokens, so that
the counts are those that split wrote down. Where the tokenizer begins a text with a token of its own
(BOS), that stands before it; it is never counted or scored.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.contracts.errors import ConfigError
from jobs.contracts.records import Chunk, short_digest
from jobs.mail.template import Segment, render_prompt, segments

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
    """Encodes by a tokenizer of transformers. Raises ConfigError for one without an end-of-text token."""

    def __init__(self, tokenizer: Any, name: str = "tokenizer") -> None:
        self.tokenizer = tokenizer
        if tokenizer.eos_token_id is None:
            raise ConfigError(
                "the tokenizer has no end-of-text token", where=name, hint="set eos_token in tokenizer_config.json"
            )
        self.end_id: int = tokenizer.eos_token_id
        whole = tokenizer("", add_special_tokens=True)["input_ids"]
        bos = tokenizer.bos_token_id
        self._start: list[int] = [bos] if bos is not None and whole[:1] == [bos] else []

    def example(self, chunk: Chunk, *, masked: Collection[str] = (), stops: bool = False) -> Example:
        """A chunk's tokens and targets: those of the bodies outside the overlap.

        `masked` are short digests of Message-IDs that are not scored. With `stops`, for training, what
        ends a mail is a target too: the blank line behind a body, and the one token after it.
        """
        bodies = [(message.start, message.end) for message in chunk.messages]
        pieces = list(segments(chunk.text, bodies))
        ids = self._encode(chunk.text, pieces)
        tokens = [*self._start, *(token for piece in ids for token in piece), self.end_id]
        labels = np.full(len(tokens), IGNORED, np.int32)
        owner = np.full(len(tokens), NO_MESSAGE, np.int16)
        position, number = len(self._start), -1
        is_target = False
        for piece, piece_ids in zip(pieces, ids, strict=True):
            end = position + len(piece_ids)
            if piece.kind == "body":
                number += 1
                message = chunk.messages[number]
                is_target = not message.context and short_digest(message.message_id) not in masked
                if is_target:
                    labels[position:end] = tokens[position:end]
                    owner[position:end] = number
            elif piece.kind == "end" and is_target and stops:
                labels[position : end + 1] = tokens[position : end + 1]
            position = end
        return Example(chunk.chunk_id, np.array(tokens, np.int32), labels, owner)

    def prompt(self, subject: str, messages: Sequence[tuple[str, str, str]], sender: str, date: str) -> list[int]:
        """The tokens that a model is to go on from; messages are (sender, date, body). See `render_prompt`."""
        text, bodies = render_prompt(subject, messages, sender, date)
        pieces = list(segments(text, bodies))
        pieces.append(Segment("header", pieces[-1].end, len(text)))
        return [*self._start, *(token for piece in self._encode(text, pieces) for token in piece)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _encode(self, text: str, pieces: Sequence[Segment]) -> list[list[int]]:
        texts = [text[piece.start : piece.end] for piece in pieces]
        encoded: list[list[int]] = self.tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, truncation=False
        )["input_ids"]
        return encoded
