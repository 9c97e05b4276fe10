"""A thread's new messages into chunks, within a token budget, each a target exactly once.

A *piece* is a message, or one part of a message that is longer than a chunk can hold. A chunk holds a few
of the last pieces before it as context (the overlap) and then new ones, its targets. Chunks are closed:
when the thread grows, the next one starts `overlap` pieces back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Literal, Protocol

from jobs.contracts.errors import ConfigError
from jobs.mail.template import NUM_END_TOKENS

Period = Literal["week", "month"]


class Tokens(Protocol):
    """What cutting needs of a tokenizer (see jobs.ml.tokens)."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text by itself."""

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Where each token stands in the text."""


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """How large a chunk may be. Raises ConfigError where no chunk could ever make progress."""

    max_tokens: int = 2048
    """Of the whole text: headers, bodies, end-of-text."""
    window_size: int | None = None
    """Pieces in a chunk, overlap included; None for as many as the budget holds."""
    window_overlap: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ConfigError(f"must be at least 1, is {self.max_tokens}", where="--max-tokens")
        if self.window_size is not None and self.window_size < 1:
            raise ConfigError(f"must be at least 1, is {self.window_size}", where="--window-size")
        if self.window_overlap < 0:
            raise ConfigError(f"must not be negative, is {self.window_overlap}", where="--window-overlap")
        if self.window_size is not None and self.window_overlap >= self.window_size:
            raise ConfigError(
                f"{self.window_overlap} of {self.window_size} messages leave no room for new ones",
                where="--window-overlap",
                hint="give a smaller overlap or a larger --window-size",
            )


@dataclass(frozen=True, slots=True)
class Piece:
    """A message of a thread, or one part of it."""

    message: int
    """The caller's number for the message."""
    part: int
    num_parts: int
    start: int
    """Where the part stands in the message's body, in characters."""
    end: int
    num_tokens: int
    """Of the body alone."""
    num_header_tokens: int
    """Of the message's header and the blank line behind its body."""

    @property
    def cost(self) -> int:
        """What the piece takes of a chunk's budget."""
        return self.num_tokens + self.num_header_tokens


@dataclass(frozen=True, slots=True)
class Window:
    """The pieces of one chunk: first those that are only read, then its targets."""

    context: tuple[Piece, ...]
    targets: tuple[Piece, ...]


def cut_windows(
    tail: Sequence[Piece], new: Sequence[Piece], settings: WindowSettings, num_subject_tokens: int
) -> list[Window]:
    """The chunks that hold the new pieces of a thread, each a target once and in order.

    `tail` are all pieces of the thread's last chunk, none for a new thread: the context of every chunk is
    the end of the chunk before. It takes at most half of the budget, and gives way where the next piece
    needs the room; the oldest goes first. Each new piece must fit alone (see cut_message): ValueError else.
    """
    budget = settings.max_tokens - num_subject_tokens - NUM_END_TOKENS
    windows = []
    previous = tuple(tail)
    done = 0
    while done < len(new):
        room = min(budget - new[done].cost, settings.max_tokens // 2)
        if budget < new[done].cost:
            raise ValueError(f"a piece of {new[done].cost} tokens does not fit in {budget}")
        context = _newest(previous, settings.window_overlap, room)
        left = budget - sum(piece.cost for piece in context)
        most = len(new) if settings.window_size is None else settings.window_size - len(context)
        end = done
        while end < len(new) and end - done < most and new[end].cost <= left:
            left -= new[end].cost
            end += 1
        windows.append(Window(context, tuple(new[done:end])))
        previous = context + windows[-1].targets
        done = end
    return windows


def _newest(pieces: tuple[Piece, ...], most: int, room: int) -> tuple[Piece, ...]:
    """The last pieces, at most so many and of so many tokens."""
    start = len(pieces)
    while start > 0 and len(pieces) - start < most and pieces[start - 1].cost <= room:
        start -= 1
        room -= pieces[start].cost
    return pieces[start:]


def cut_message(
    message: int,
    body: str,
    *,
    num_tokens: int,
    num_header_tokens: int,
    num_subject_tokens: int,
    settings: WindowSettings,
    tokens: Tokens,
) -> list[Piece]:
    """The pieces of one message: itself where it fits in a chunk, else parts that each do.

    The counts are the caller's, who has them from one batch for many messages: of the body, of the message's
    header with the blank line behind the body, of the subject's header. Every character of the body is in
    exactly one part. Raises ConfigError where the headers leave no room.
    """
    room = settings.max_tokens - num_subject_tokens - NUM_END_TOKENS - num_header_tokens
    if num_tokens <= room:
        return [Piece(message, 0, 1, 0, len(body), num_tokens, num_header_tokens)]
    parts = cut_body(body, room, tokens)
    return [
        Piece(message, number, len(parts), start, end, count, num_header_tokens)
        for number, (start, end, count) in enumerate(parts)
    ]


def cut_body(body: str, room: int, tokens: Tokens) -> list[tuple[int, int, int]]:
    """Parts of a text of at most `room` tokens each, tokenised by itself: (start, end, tokens).

    A part ends behind a line, else at a word's border, where there is one in its second half; else between
    tokens. Raises ConfigError where not even a character fits.
    """
    parts: list[tuple[int, int, int]] = []
    start = 0
    while start < len(body):
        end, count = _next_part(body, start, room, tokens)
        parts.append((start, end, count))
        start = end
    return parts


def _next_part(body: str, start: int, room: int, tokens: Tokens) -> tuple[int, int]:
    """Where the part that begins at `start` ends, and its tokens."""
    reach = 8 * max(room, 1)  # tokens of common text have some four characters: never the offsets of a whole book
    spans = tokens.offsets(body[start : start + reach])
    while len(spans) <= room and start + reach < len(body):
        reach *= 2
        spans = tokens.offsets(body[start : start + reach])
    allowed = max(room, 0)
    while True:
        limit = start + spans[allowed][0] if allowed < len(spans) else len(body)
        end = _border(body, start, max(limit, start + 1))
        count = tokens.count([body[start:end]])[0]  # text that is cut elsewhere may be tokenised otherwise
        if count <= room:
            return end, count
        if end == start + 1:
            raise ConfigError(
                f"{room} tokens beside the headers do not hold a character of a message",
                where="--max-tokens",
                hint="give a larger budget",
            )
        allowed = max(0, allowed - max(1, count - room))


def _border(body: str, start: int, limit: int) -> int:
    """The best place to end a part that must end at `limit` or before."""
    if limit == len(body):
        return limit
    middle = (start + limit) // 2
    line = body.rfind("\n", middle, limit) + 1
    if line or body[limit].isspace():
        return line or limit
    word = max(body.rfind(" ", middle, limit), body.rfind("\t", middle, limit)) + 1
    return word or limit


def shortened(value: str, room: int, tokens: Tokens) -> str:
    """The beginning of a subject or a name that has at most `room` tokens: a hostile one must not fill a chunk."""
    if tokens.count([value])[0] <= room:
        return value
    spans = tokens.offsets(value)
    short, keep = value, max(room, 0)
    while tokens.count([short])[0] > room:
        short = value[: spans[keep][0]].rstrip()
        keep -= 1
    return short


def sender_of_chunk(targets: Iterable[tuple[str, int]]) -> str:
    """Who wrote most of a chunk: targets are (sender, tokens) in order, the overlap left out; ties: the latest."""
    written: dict[str, int] = {}
    for sender, num_tokens in targets:
        written[sender] = written.pop(sender, 0) + num_tokens  # dictionaries keep the order: the latest is last
    return max(reversed(written), key=written.__getitem__, default="")


def period_of(date_time: str, period: Period) -> str:
    """The ISO week (`2019-W27`) or month (`2019-07`) of a date that begins YYYY-MM-DD; keys sort as time does."""
    return _PERIODS[period](date_time[:10])


@lru_cache(maxsize=4096)
def _week_of(day: str) -> str:
    year, week, _ = date.fromisoformat(day).isocalendar()
    return f"{year:04d}-W{week:02d}"


def _month_of(day: str) -> str:
    return day[:7]


_PERIODS: dict[Period, Callable[[str], str]] = {"week": _week_of, "month": _month_of}
