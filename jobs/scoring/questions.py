"""Questions with known answers: a mail that was answered, and what the person really wrote. Pure.

A question is the subject and the mail that a held-out reply answers; the reply is the target. Relevant are
earlier mails that the reply refers to or quotes. The answered mail is in the question and so is not among
them; where nothing else is left, nothing can be said of what was retrieved.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from jobs.contracts.records import Message, Split
from jobs.mail.quoting import own_text, split_by_quotes

POOL_SIZE = 1024
"""Mails that stand for any mail of the archive, where sources are to be random."""
MIN_QUOTED_WORDS = 5
"""Shorter lines are quoted by chance."""

Read = Callable[[], Iterator[Message]]
"""All mails up to the cycle's window, in the same order whenever it is called."""


@dataclass(frozen=True, slots=True)
class Question:
    """A mail that was answered, and the answer."""

    split: Split
    target: Message
    """The held-out reply: never in the query, and never retrieved."""
    answered: Message
    relevant: tuple[str, ...]
    """Message-IDs, the latest first: earlier mails that the target refers to or quotes, without the answered one."""

    @property
    def thread_id(self) -> str:
        """The target's thread: what intervals are clustered by."""
        return self.target.thread_id

    @property
    def hidden(self) -> frozenset[str]:
        """Message-IDs that must not be retrieved."""
        return frozenset({self.target.message_id, self.answered.message_id})


@dataclass(frozen=True, slots=True)
class Outline:
    """A mail without its text."""

    message_id: str
    thread_id: str
    date: str


@dataclass(frozen=True, slots=True)
class Questions:
    """The questions of val and test, and mails to draw random sources from."""

    asked: list[Question]
    """By split, thread and date of the target."""
    pool: list[Outline] = field(default_factory=list)
    num_replies: int = 0
    """Replies that could have been targets; as many as were asked for were taken."""


def make_questions(
    read: Read, targets: Mapping[str, Split], *, persona: Collection[str] = (), max_queries: int, seed: int
) -> Questions:
    """At most max_queries questions, whatever the order of the mails, whose texts are not held but read again.

    `targets` are the Message-IDs of the val and test mails that count. A reply is asked for where its sender is
    one of `persona` (addresses; empty: anybody), it says something itself, and the mail that it answers is in
    the archive and not later. Test has up to half of the questions. Threads take turns in an order by hash, so
    that none is asked more often than another before that one has no more replies.
    """
    if not max_queries or not targets:
        return Questions([])
    refers, pool = _replies(read, targets, {one.casefold() for one in persona}, seed)
    dates = _dates(read, refers)
    answered = {one.message_id: _answered(one, others, dates) for one, others in refers.items()}
    threads = {one.message_id: one.thread_id for one in refers if answered[one.message_id]}
    chosen = _chosen(threads, targets, max_queries, seed)
    needed = {*chosen, *(answered[one] for one in chosen)}
    texts = {message.message_id: message for message in read() if message.message_id in needed}
    pairs = [(texts[one], texts[answered[one] or ""]) for one in chosen]
    pairs.sort(key=lambda pair: (targets[pair[0].message_id] == "test", pair[0].thread_id, _age(pair[0])))
    relevant = _relevant(read, pairs, dates)
    questions = [Question(targets[t.message_id], t, a, relevant[t.message_id]) for t, a in pairs]
    return Questions(questions, pool, len(threads))


def random_sources(question: Question, pool: Sequence[Outline], num: int, seed: int) -> list[str]:
    """Message-IDs of earlier mails of other threads that are not relevant: drawn by hash, fewer where there are few."""
    fit = [
        one.message_id
        for one in pool
        if one.date < question.target.date
        and one.thread_id != question.thread_id
        and one.message_id not in question.relevant
        and one.message_id not in question.hidden
    ]
    return sorted(fit, key=lambda one: drawn(seed, question.target.message_id, one))[:num]


def _age(message: Message | Outline) -> tuple[str, str]:
    return message.date, message.message_id


def drawn(*parts: object) -> bytes:
    """What to sort by for an order that looks random and never changes."""
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogatepass")).digest()


def _replies(
    read: Read, targets: Mapping[str, Split], persona: Collection[str], seed: int
) -> tuple[dict[Outline, list[str]], list[Outline]]:
    """The held-out mails of the persona that say something, each with what it refers to; and the pool."""
    refers: dict[Outline, list[str]] = {}
    pool: list[tuple[int, str, Outline]] = []
    for message in read():
        outline = Outline(message.message_id, message.thread_id, message.date)
        rank = int.from_bytes(drawn(seed, "pool", message.message_id)[:8], "big")
        (heapq.heappush if len(pool) < POOL_SIZE else heapq.heappushpop)(pool, (rank, message.message_id, outline))
        by_persona = not persona or message.sender.casefold() in persona
        if message.message_id in targets and by_persona and own_text(message.text):
            refers[outline] = _nearest_first(message)
    return refers, sorted((entry[2] for entry in pool), key=_age)


def _dates(read: Read, refers: Mapping[Outline, Sequence[str]]) -> dict[str, str]:
    """The dates of all mails that are referred to and are there."""
    wanted = {one for others in refers.values() for one in others}
    return {message.message_id: message.date for message in read() if message.message_id in wanted} if wanted else {}


def _answered(reply: Outline, others: Sequence[str], dates: Mapping[str, str]) -> str | None:
    """The nearest mail that a reply refers to, of those that are there and not later."""
    return next((one for one in others if one in dates and dates[one] <= reply.date), None)


def _nearest_first(message: Message) -> list[str]:
    """What a mail refers to: what it answers, then its other references, the newest first."""
    listed = [*message.in_reply_to, *reversed(message.references)]
    return [one for one in dict.fromkeys(listed) if one != message.message_id]


def _chosen(threads: Mapping[str, str], targets: Mapping[str, Split], max_queries: int, seed: int) -> list[str]:
    """So many of the replies, whose threads are given; one split's share goes to the other where it lacks replies."""
    val, test = (
        list(_in_turn([(thread, one) for one, thread in threads.items() if targets[one] == split], seed))
        for split in ("val", "test")
    )
    num_val = min(len(val), max(max_queries - len(test), max_queries - max_queries // 2))
    return val[:num_val] + test[: max_queries - num_val]


def _in_turn(replies: Iterable[tuple[str, str]], seed: int) -> Iterator[str]:
    """Replies as threads take turns: the first of every thread, the second of every thread, and so on."""
    turns: Counter[str] = Counter()
    places = []
    for thread, reply in sorted(replies, key=lambda one: drawn(seed, "reply", one[1])):
        places.append((turns[thread], drawn(seed, "thread", thread), reply))
        turns[thread] += 1
    return (reply for *_, reply in sorted(places))


def _relevant(
    read: Read, pairs: Sequence[tuple[Message, Message]], dates: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """By target, the earlier mails that it refers to or quotes, the latest first."""
    quoted = {target.message_id: _quoted_lines(target.text) for target, _ in pairs}
    holders = _holders(read, set().union(*quoted.values()))
    relevant = {}
    for target, answered in pairs:
        found = {one: dates[one] for one in _nearest_first(target) if one in dates}
        for line in quoted[target.message_id]:
            earlier = [(one, date) for one, date in holders[line] if date < target.date]
            found.update(earlier if len(earlier) == 1 else ())  # a line of several mails says nothing of one
        fit = [(date, one) for one, date in found.items() if date < target.date and one != answered.message_id]
        relevant[target.message_id] = tuple(one for _, one in sorted(fit, reverse=True))
    return relevant


def _holders(read: Read, lines: Collection[str]) -> dict[str, list[tuple[str, str]]]:
    """By line, the mails that say it themselves, with their dates."""
    holders: dict[str, list[tuple[str, str]]] = {line: [] for line in lines}
    for message in read() if lines else ():
        for line in holders.keys() & map(_normalised, own_text(message.text).splitlines()):
            holders[line].append((message.message_id, message.date))
    return holders


def _quoted_lines(text: str) -> set[str]:
    """The lines that a mail quotes, those long enough to tell one mail from another."""
    lines = (line.lstrip("> \t") for quote in split_by_quotes(text)[1] for line in quote.splitlines())
    return {known for line in lines if len((known := _normalised(line)).split()) >= MIN_QUOTED_WORDS}


def _normalised(line: str) -> str:
    return " ".join(line.casefold().split())
