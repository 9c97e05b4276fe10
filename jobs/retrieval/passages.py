"""Mails cut into passages: pieces of what a mail itself says, each short enough for an embedding model."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Protocol

from jobs.contracts.records import Message, short_digest
from jobs.mail.quoting import own_text
from jobs.retrieval.query import Passage

FORMAT = 1
"""Changes whenever the same mail would be cut in another way: an index is of one format."""

OVERLAP_SHARE = 8
"""A passage begins at most an eighth of the budget before the end of the one before it."""
SUBJECT_SHARE = 4
"""A subject takes at most a quarter of the budget: what is more is not embedded."""
_MIN_FILL = 2
"""A passage is filled at least to a half before it may end at a paragraph or a sentence."""

_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
_LINE = re.compile(r"\n")
_SENTENCE = re.compile(r"[.!?…][\"')\]»”]*\s+|[\u3002\uff01\uff1f]")
_WORD = re.compile(r"\s+")
_BREAKS = (_PARAGRAPH, _SENTENCE, _LINE, _WORD)
"""Where a passage may end, the best first."""

Offsets = list[tuple[int, int]]


class Tokens(Protocol):
    """How long texts are to an embedding model."""

    @property
    def budget(self) -> int:
        """Tokens of a text that it reads at most, special ones not counted."""

    def offsets(self, texts: list[str]) -> list[Offsets]:
        """Of each text, where its tokens stand: (start, end) in characters, ascending."""


def cut(messages: Iterable[Message], tokens: Tokens, batch: int = 256) -> Iterator[Passage]:
    """The passages of mails, in the mails' order; the same for the same mail, whatever comes before it.

    A mail whose body is empty has one passage, with an empty text: its subject can be found.
    """
    held: list[Message] = []
    for message in messages:
        held.append(message)
        if len(held) == batch:
            yield from _cut_batch(held, tokens)
            held = []
    yield from _cut_batch(held, tokens)


def embedded_text(passage: Passage) -> str:
    """What stands for a passage in both rankings: the mail's subject, then the passage's own text."""
    return joined(passage.subject, passage.text)


def joined(subject: str, text: str) -> str:
    """A subject above a text, as passages and questions have it."""
    subject = " ".join(subject.split())
    return f"{subject}\n\n{text}" if subject and text else subject or text


def text_to_cut(message: Message) -> str:
    """A mail's own text; all of it where it only quotes."""
    return own_text(message.text) or message.text.strip()


def _cut_batch(messages: list[Message], tokens: Tokens) -> Iterator[Passage]:
    texts = list(map(text_to_cut, messages))
    subjects = [" ".join(message.subject.split()) for message in messages]
    offsets = tokens.offsets([*texts, *subjects]) if messages else []
    for number, (message, text) in enumerate(zip(messages, texts, strict=True)):
        subject, taken = _shortened(subjects[number], offsets[len(messages) + number], tokens.budget)
        digest = short_digest(message.message_id)
        for part, (start, end) in enumerate(spans(text, offsets[number], tokens.budget - taken)):
            yield Passage(
                passage_id=f"{digest}#{part}",
                message_id=message.message_id,
                thread_id=message.thread_id,
                split=message.split,
                window_idx=message.window_idx,
                date=message.date,
                sender=message.sender,
                subject=subject,
                text=text[start:end],
            )


def _shortened(subject: str, offsets: Offsets, budget: int) -> tuple[str, int]:
    """As much of a subject as may stand, and its tokens."""
    most = max(1, budget // SUBJECT_SHARE)
    if len(offsets) <= most:
        return subject, len(offsets)
    return subject[: offsets[most][0]].rstrip(), most


def spans(text: str, offsets: Offsets, budget: int) -> list[tuple[int, int]]:
    """Where passages of at most `budget` tokens stand in a text; together they hold all that is not white space.

    They end at a paragraph's end where one lies in their second half, else at a sentence's, a line's or a
    word's; only a word longer than the budget is cut. Each begins a little before the last one's end, at
    such a place too.
    """
    found = []
    first = 0
    ends = [end for _, end in offsets]
    while True:
        last = _end(text, ends, first, budget)
        found.append((offsets[first][0], ends[last - 1]) if offsets else (0, 0))
        if last >= len(offsets):
            return found
        first = _start(text, ends, first, last, budget // OVERLAP_SHARE)


def _end(text: str, ends: list[int], first: int, budget: int) -> int:
    """The token behind the last one of the passage that begins with token `first`."""
    if len(ends) - first <= budget:
        return len(ends)
    least = first + max(1, budget // _MIN_FILL)
    for pattern in _BREAKS:
        places = _places(text, ends, least, first + budget, pattern)
        if places:
            return places[-1]
    return first + budget


def _start(text: str, ends: list[int], first: int, last: int, overlap: int) -> int:
    """The first token of the next passage: the earliest good place in the overlap, or right behind the last."""
    least = max(first + 1, last - overlap)
    for pattern in _BREAKS[:-1]:
        places = _places(text, ends, least, last - 1, pattern)
        if places:
            return places[0]
    return last


def _places(text: str, ends: list[int], least: int, most: int, pattern: re.Pattern[str]) -> list[int]:
    """The tokens from `least` to `most` that begin where a match of the pattern ends, in order."""
    if least > most:
        return []
    matches = pattern.finditer(text, max(0, ends[least - 1] - 1), ends[most])
    numbers = [bisect_right(ends, match.end()) for match in matches]
    return [number for number in numbers if least <= number <= most]
