"""Decoded mails by hand."""

from __future__ import annotations

from collections.abc import Iterator

from jobs.contracts.records import Message
from jobs.scoring.questions import Question, Read


def message(
    name: str,
    *,
    thread: str = "t",
    day: int = 1,
    sender: str = "ann@example.org",
    answers: str = "",
    refers: tuple[str, ...] = (),
    text: str | None = None,
    subject: str = "plan",
) -> Message:
    return Message(
        message_id=name,
        sender=sender,
        subject=subject,
        date=f"2024-01-{day:02d}T09:00:00Z",
        references=list(refers),
        in_reply_to=[answers] if answers else [],
        text=f"This is {name}." if text is None else text,
        thread_id=thread,
        split="val",
    )


def reading(*messages: Message) -> Read:
    def read() -> Iterator[Message]:
        return iter(messages)

    return read


def question(name: str, *, thread: str = "t", day: int = 5, relevant: tuple[str, ...] = ()) -> Question:
    target = message(name, thread=thread, day=day)
    return Question("val", target, message(f"asked-{name}", thread=thread, day=day), relevant)
