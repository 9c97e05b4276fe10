"""What is asked, and the mails that a model goes on from: sources, conversation, and the header of its answer."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import Literal, Protocol

from jobs.contracts.errors import InputError
from jobs.contracts.records import Json
from jobs.retrieval.query import Hit, Mode, Passage

Source = tuple[Hit, Passage]
Mail = tuple[str, str, str]
"""Sender, date and body."""

ASKER = "asker@localhost"
"""Whose mail a question is."""
OPERATOR = "operator@localhost"
"""Whose mail the client's own instructions are."""
_SUBJECT_CHARS = 100
_MIDNIGHT = "0000-01-01T00:00:00Z"
"""What is added to the beginning of a time."""
_FORGED_HEADER = re.compile(r"^(?=(?:From|Date|Subject):)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Turn:
    """What was said before in a conversation."""

    role: Literal["user", "assistant", "system"]
    text: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked, and what limits the answer."""

    text: str
    before: str = ""
    top_k: int = 5
    mode: Mode = "hybrid"
    persona: str = ""
    max_new_tokens: int = 256
    history: tuple[Turn, ...] = ()
    """What came before the question, oldest first."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is to go on from."""

    ids: list[int]
    sources: list[Source] = field(default_factory=list)
    """Those that it reads, the best first."""
    notes: list[str] = field(default_factory=list)
    """What was left out."""


class NoRoomError(InputError):
    """A question that is longer than the model reads."""


class _Encoder(Protocol):
    def prompt(self, subject: str, messages: Sequence[Mail], sender: str, date: str) -> list[int]:
        """See `jobs.ml.encoding.Encoder`."""
        ...


def fit_prompt(encoder: _Encoder, asked: Asked, sources: Sequence[Source], limit: int | None) -> Prompt:
    """As many of the sources, the best first, as there is room for; then less and less of the conversation.

    NoRoomError where not even the question has room.
    """
    tries = [(number, asked) for number in range(len(sources), -1, -1)]
    tries += [(0, replace(asked, history=asked.history[gone:])) for gone in range(1, len(asked.history) + 1)]

    @cache
    def made(place: int) -> list[int]:
        number, one = tries[place]
        return encoder.prompt(*prompt_parts(one, sources[:number]))

    def fits(place: int) -> bool:
        return limit is None or len(made(place)) <= limit

    place = 0 if fits(0) else bisect_left(range(len(tries)), 1, lo=1, key=fits)
    if place == len(tries):
        what = f"the question has {len(made(place - 1))} tokens as a prompt; there is room for {limit}"
        raise NoRoomError(what, hint="ask for less")
    number, one = tries[place]
    return Prompt(made(place), list(sources[:number]), list(_left_out(asked, one, number, len(sources))))


def _left_out(asked: Asked, one: Asked, number: int, num_sources: int) -> Sequence[str]:
    notes = []
    if number < num_sources:
        notes.append(f"the model reads the best {number} of the {num_sources} sources: no more fit")
    if gone := len(asked.history) - len(one.history):
        notes.append(f"the model reads the conversation without its first {gone} turns: no more fit")
    return notes


def prompt_parts(asked: Asked, sources: Sequence[Source]) -> tuple[str, list[Mail], str, str]:
    """What the template's prompt is made of: subject, earlier mails, and the reply's sender and date.

    The sources stand as earlier mails, oldest first, then the conversation, a mail for each turn, and the question
    as a mail of its own. The reply is the persona's, or that of who wrote the best source. Its date is `before`,
    else that of the newest source, so that the same question has the same answer; it is today's where there is
    neither. No source can end its own mail and begin another: a line of it that looks like a header is quoted.
    """
    passages = [passage for _, passage in sources]
    date = asked.before or max((one.date for one in passages), default="") or f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    date += _MIDNIGHT[len(date) :]
    earlier = sorted(passages, key=lambda one: (one.date, one.passage_id))
    sender = asked.persona or (passages[0].sender if passages else "")
    senders = {"user": ASKER, "assistant": sender, "system": OPERATOR}
    said = [*asked.history, Turn("user", asked.text)]
    messages = [(one.sender, one.date, _as_data(one.text)) for one in earlier]
    messages += [(senders[turn.role], date, turn.text.strip()) for turn in said]
    first = next(turn.text for turn in said if turn.role == "user")
    return " ".join(first.split())[:_SUBJECT_CHARS], messages, sender, date


def _as_data(text: str) -> str:
    return _FORGED_HEADER.sub("> ", text)


def sources_body(sources: Sequence[Source]) -> list[Json]:
    """The mails that an answer drew on, the best first."""
    return [
        {
            "message_id": hit.message_id,
            "passage_id": hit.passage_id,
            "sender": passage.sender,
            "date": passage.date,
            "subject": passage.subject,
            "score": hit.score,
            "ranks": hit.ranks,
            "text": passage.text,
        }
        for hit, passage in sources
    ]
