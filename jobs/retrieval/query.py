"""What is asked of an index, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

Mode = Literal["hybrid", "dense", "bm25"]
"""By vectors and words together, by vectors alone, or by words alone."""
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True, slots=True)
class Query:
    """A question. Only passages of mails that are earlier than `before` and not excluded may answer it."""

    text: str
    before: str = ""
    """YYYY-MM-DDTHH:MM:SSZ, or the beginning of such a time (2024-05 means before May); empty: no limit."""
    exclude: frozenset[str] = frozenset()
    """Message-IDs whose passages are left out."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found."""

    passage_id: str
    message_id: str
    score: float
    """Cosine, BM25 score, or the sum of reciprocal ranks, by the mode of the search; more is better."""
    ranks: dict[str, int] = field(default_factory=dict)
    """Its place, from 1, in each ranking that found it: `dense`, `bm25`."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A mail, or a part of one that an embedding model can read at once."""

    passage_id: str
    """`<short digest of the Message-ID>#<number>`, counted from 0 within the mail."""
    message_id: str
    thread_id: str
    split: str
    window_idx: int
    date: str
    sender: str
    subject: str
    text: str
    """A piece of the mail's body, without what it quotes; the subject is not part of it."""
