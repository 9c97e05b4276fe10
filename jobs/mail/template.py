"""The one template: what training, evaluation and serving read alike.

    Subject: <subject>

    From: <sender>
    Date: 2019-07-01 09:30

    <body>

    From: …

and the tokenizer's end-of-text token, which is no text, after the blank line behind the last body.

Each segment (the subject's header, a message's header, a body, the blank line behind it) is tokenised
by itself: counts add up, and a token belongs to one body or to none. Where bodies stand is told by
their offsets, never by looking for headers: a body that holds a line `From: …` is just text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from jobs.contracts.records import short_digest

SUBJECT_HEADER = "Subject: {subject}\n\n"
MESSAGE_HEADER = "From: {sender}\nDate: {date}\n\n"
BODY_END = "\n\n"
NEXT_MAIL = BODY_END + MESSAGE_HEADER.partition("{")[0]
"""How another mail begins: a blank line, and `From: `."""
NUM_END_TOKENS = 1
"""The end-of-text token behind the last segment."""

TEMPLATE_DIGEST = short_digest("\0".join([SUBJECT_HEADER, MESSAGE_HEADER, "YYYY-MM-DD HH:MM", BODY_END, "end-of-text"]))
"""Fixed for the life of an archive: another template is another archive."""

SegmentKind = Literal["subject", "header", "body", "end"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a rendered text that is tokenised by itself."""

    kind: SegmentKind
    start: int
    end: int


def subject_header(subject: str) -> str:
    """How a text begins; white space in the subject, line ends included, becomes single blanks."""
    return SUBJECT_HEADER.format(subject=_one_line(subject))


def message_header(sender: str, date: str) -> str:
    """What stands before a body. The date is YYYY-MM-DDTHH:MM:SSZ."""
    return MESSAGE_HEADER.format(sender=_one_line(sender), date=f"{date[:10]} {date[11:16]}")


def render(subject: str, messages: Iterable[tuple[str, str, str]]) -> tuple[str, list[tuple[int, int]]]:
    """The text, and where each body stands in it: (start, end) in characters.

    A message is (sender, date as YYYY-MM-DDTHH:MM:SSZ, body).
    """
    pieces = [subject_header(subject)]
    length = len(pieces[0])
    bodies = []
    for sender, date, body in messages:
        header = message_header(sender, date)
        start = length + len(header)
        end = start + len(body)
        bodies.append((start, end))
        pieces += [header, body, BODY_END]
        length = end + len(BODY_END)
    return "".join(pieces), bodies


def render_prompt(
    subject: str, messages: Iterable[tuple[str, str, str]], sender: str, date: str
) -> tuple[str, list[tuple[int, int]]]:
    """What a model is to go on from, as `render`: the messages, and the header of the mail that it is to write."""
    text, bodies = render(subject, messages)
    return text + message_header(sender, date), bodies


def segments(text: str, bodies: Sequence[tuple[int, int]]) -> Iterator[Segment]:
    """The segments of a rendered text, in order and without gaps, from where its bodies stand."""
    position = text.index("\n\n") + 2  # a subject has no line end in it
    yield Segment("subject", 0, position)
    for start, end in bodies:
        yield Segment("header", position, start)
        yield Segment("body", start, end)
        position = end + len(BODY_END)
        yield Segment("end", end, position)


def _one_line(value: str) -> str:
    return " ".join(value.split())
