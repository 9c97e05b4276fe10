"""Synthetic mail archives: people, threads, quoting, HTML, attachments' charsets; the same seed gives the same bytes.

    python tests/mailgen.py archive.mbox --messages 1000000

Messages come in the order of their dates, evenly over the archive's days, with memory that does
not grow. Nobody in them exists: names are made of syllables, addresses end in .example.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import calendar
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

Draw = Callable[[], float]
"""The next number in [0, 1) of a seeded generator: the one thing that `random` promises to keep as it is."""

MONDAY_2025 = "2025-01-06"
DAYS = 182

_COMMON = """
the a of to and in is that it for on with as this be are was not or but if when then so we I you they there which can
will would should could may must have has had do does did one two some any all more most other same new old first last
next again still only just also very here now later before after since until while from into over by at I'd I've it's
don't can't won't patch disk array build test server kernel driver log error list mail thread week think see know need
try found works fails looks seems means makes gives takes keeps sends reads writes changed reason question answer
problem version release branch commit review config option default memory block write read
"""
_SYLLABLES = ("ba", "ce", "di", "fo", "gu", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "wo", "xa", "ly")
_SYLLABLES += ("mar", "ten", "sil", "dor", "ban", "kel", "rin", "tos", "val", "pra", "gel", "mun")
_NUM_LINES = 16_384
_FOOTER = "_______________________________________________\nworkshop mailing list\nworkshop@lists.example\n"
_HEAD = """\
Return-Path: <workshop-bounces+{token}@lists.example>
Received: from lists.example (lists.example [192.0.2.17])
\tby store.example (Postfix) with ESMTPS id {token}
\tfor <archive@store.example>; {stored}
Received: from {host} (unknown [198.51.100.{octet}])
\tby lists.example (Postfix) with ESMTP id {nekot}
\tfor <workshop@lists.example>; {listed}
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/simple; d={host};
\ts=mail; h=From:To:Subject:Date:Message-ID; bh={token}{nekot};
\tb={nekot}{token}{token}{nekot}
From: {sender}
To: workshop@lists.example
Subject: {subject}
Date: {date}
Message-ID: <{message_id}>
X-Mailer: Mailgen 1.0
List-Id: the workshop <workshop.lists.example>
List-Post: <mailto:workshop@lists.example>
Precedence: list
MIME-Version: 1.0
"""
_PLAIN = "Content-Type: text/plain; charset={charset}\nContent-Transfer-Encoding: {bits}bit\n\n"
_ALTERNATIVE = """\
{head}Content-Type: multipart/alternative; boundary="{boundary}"

--{boundary}
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

{plain}
--{boundary}
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: base64

{page}
--{boundary}--
"""
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail as a delivery agent would store it: lines end in LF, no mbox separator, no escapes."""

    message_id: str
    sender: str
    epoch_seconds: int
    raw: bytes


@dataclass(frozen=True, slots=True)
class _Person:
    name: str
    address: str
    header: str
    """Name and address as they stand in a From field."""
    signature: str
    html: bool
    umlauts: bool


@dataclass(slots=True)
class _Post:
    message_id: str
    author: _Person
    date: str
    lines: list[str]
    references: list[str]


@dataclass(slots=True)
class _Thread:
    subject: str
    posts: deque[_Post] = field(default_factory=lambda: deque(maxlen=8))


def mails(num_messages: int, *, seed: int = 0, start: str = MONDAY_2025, days: int = DAYS) -> Iterator[Mail]:
    """That many mails from `start` (YYYY-MM-DD, UTC) over `days` days, in the order of their dates.

    Three in ten open a thread; one reply in a hundred answers a mail that is not in the archive.
    """
    rng = random.Random(seed)
    pick = rng.random
    people = _people(rng, max(6, min(5000, num_messages // 25)))
    threads: deque[_Thread] = deque(maxlen=max(64, min(2048, num_messages // 100)))
    begin = calendar.timegm(time.strptime(start, "%Y-%m-%d"))
    step = days * _DAY_SECONDS / max(1, num_messages)
    for number in range(num_messages):
        epoch = begin + int((number + pick()) * step)
        author = people[int(len(people) * min(pick(), pick(), pick()))]
        parent = None
        if threads and pick() > 0.3:
            thread = threads[int(len(threads) * max(pick(), pick()))]
            parent = thread.posts[int(len(thread.posts) * max(pick(), pick()))]
        else:
            thread = _Thread(_subject(pick))
            threads.append(thread)
        post = _post(pick, number, epoch, author, parent)
        thread.posts.append(post)
        yield Mail(post.message_id, author.address, epoch, _render(pick, epoch, post, parent, thread.subject))


def mbox_bytes(mail: Mail) -> bytes:
    """One mail as an entry of an mboxrd file: separator, escaped lines, a blank line."""
    raw = mail.raw
    if b"\nFrom " in raw or b"\n>From " in raw or b"\n>>From " in raw:
        raw = b"\n".join(b">" + line if line.lstrip(b">").startswith(b"From ") else line for line in raw.split(b"\n"))
    return b"From %s %s\n%s\n" % (mail.sender.encode(), _asctime(mail.epoch_seconds).encode(), raw)


def write_mbox(path: Path, num_messages: int, seed: int = 0, start: str = MONDAY_2025, days: int = DAYS) -> int:
    """An mboxrd file of that many mails; its size in bytes."""
    with path.open("wb", buffering=1 << 20) as stream:
        for mail in mails(num_messages, seed=seed, start=start, days=days):
            stream.write(mbox_bytes(mail))
        return stream.tell()


def write_mboxes_by_week(
    folder: Path, num_messages: int, seed: int = 0, start: str = MONDAY_2025, days: int = DAYS
) -> list[Path]:
    """The same mails as `write_mbox`, a file for each seven days from `start`, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    weeks: dict[Path, list[bytes]] = {}
    first = None
    for mail in mails(num_messages, seed=seed, start=start, days=days):
        first = first or mail.epoch_seconds // _DAY_SECONDS
        week = (mail.epoch_seconds // _DAY_SECONDS - first) // 7
        weeks.setdefault(folder / f"week-{week:03d}.mbox", []).append(mbox_bytes(mail))
    for path, entries in weeks.items():
        path.write_bytes(b"".join(entries))
    return list(weeks)


def write_maildir(folder: Path, num_messages: int, seed: int = 0, start: str = MONDAY_2025, days: int = DAYS) -> None:
    """A Maildir of that many mails, all in `cur`."""
    for name in ("cur", "new", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, mail in enumerate(mails(num_messages, seed=seed, start=start, days=days)):
        (folder / "cur" / f"{mail.epoch_seconds}.{number:08d}.host:2,S").write_bytes(mail.raw)


def _word(draw: Draw) -> str:
    return "".join(_SYLLABLES[int(len(_SYLLABLES) * draw())] for _ in range(2 + int(2.2 * draw())))


def _frequent(draw: Draw, words: list[str]) -> str:
    """A word, those at the front by far the most often. No powers: products come out the same on every machine."""
    x = draw()
    return words[int(len(words) * x * x * x * x * x)]


@lru_cache(maxsize=1)
def _lines() -> list[str]:
    """Lines of prose that every body is made of: few words are frequent, most are rare."""
    draw = random.Random("lines").random
    words = _COMMON.split() + [_word(draw) for _ in range(4000)]
    lines = []
    for _ in range(_NUM_LINES):
        line = _frequent(draw, words).capitalize()
        while len(line) < 58:
            line += " " + _frequent(draw, words)
        lines.append(line + (".", ",", "", "?")[int(4 * min(draw(), draw()))])
    return lines


def _people(rng: random.Random, count: int) -> list[_Person]:
    people = []
    for number in range(count):
        draw = rng.random
        first, last = _word(draw).capitalize(), _word(draw).capitalize()
        umlauts = draw() < 0.06
        if umlauts:
            first = first.replace("a", "ä").replace("o", "ö").replace("u", "ü")
        name = f"{first} {last}"
        address = f"{last.lower()}{number}@{_SYLLABLES[number % 20]}.example"
        shown = name if name.isascii() else f"=?utf-8?B?{base64.b64encode(name.encode()).decode()}?="
        signature = f"-- \n{name}\n{_word(draw).capitalize()} works\n" if draw() < 0.4 else ""
        people.append(_Person(name, address, f"{shown} <{address}>", signature, html=draw() < 0.07, umlauts=umlauts))
    return people


def _subject(pick: Draw) -> str:
    line = _lines()[int(_NUM_LINES * pick())]
    return f"[workshop] {line[: 20 + int(30 * pick())].rstrip(' .,')}"


def _post(pick: Draw, number: int, epoch: int, author: _Person, parent: _Post | None) -> _Post:
    pool = _lines()
    lines = [pool[int(_NUM_LINES * pick())] for _ in range(3 + int(22 * min(pick(), pick())))]
    if pick() < 0.01:
        lines[len(lines) // 2] = "From here on it is " + lines[0].lower()
    if author.umlauts:
        lines[0] = f"Grüße, {lines[0]}"
    for blank in range(4, len(lines), 6):
        lines[blank] = ""
    references = []
    if parent is not None:
        references = [*parent.references[:1], *parent.references[1:][-9:], parent.message_id]
        if pick() < 0.01:
            references[-1] = f"elsewhere.{number}@gone.example"
    message_id = f"{epoch:x}.{number}.{int(1e9 * pick())}@{author.address.partition('@')[2]}"
    return _Post(message_id, author, _rfc_date(epoch), lines, references)


def _render(pick: Draw, epoch: int, post: _Post, parent: _Post | None, subject: str) -> bytes:
    token = f"{int(1e15 * pick()):015x}"
    head = _HEAD.format(
        token=token,
        nekot=token[::-1],
        host=post.author.address.partition("@")[2],
        octet=len(post.author.address),
        stored=_rfc_date(epoch + 4),
        listed=_rfc_date(epoch + 2),
        sender=post.author.header,
        subject=f"Re: {subject}" if parent else subject,
        date=post.date,
        message_id=post.message_id,
    )
    text = "\n".join(post.lines)
    if parent is not None:
        references = ">\n <".join(post.references)
        head += f"In-Reply-To: <{post.references[-1]}>\nReferences: <{references}>\n"
        quoted = "\n> ".join(parent.lines[: 2 + int(8 * pick())])
        text = f"On {parent.date}, {parent.author.name} wrote:\n> {quoted}\n\n{text}"
    text = f"{text}\n\n{post.author.signature}{_FOOTER}"
    if post.author.html:
        return _alternative(head, text, boundary=token)
    if text.isascii():
        return f"{head}{_PLAIN.format(charset='us-ascii', bits=7)}{text}".encode()
    return f"{head}{_PLAIN.format(charset='iso-8859-1', bits=8)}{text}".encode("latin-1", "replace")


def _alternative(head: str, text: str, boundary: str) -> bytes:
    page = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", "<br>\n")
    return _ALTERNATIVE.format(
        head=head,
        boundary=f"={boundary}",
        plain=binascii.b2a_qp(text.encode()).decode(),
        page=base64.encodebytes(f"<html><body><p>{page}</p></body></html>\n".encode()).decode(),
    ).encode()


@lru_cache(maxsize=64)
def _day(number: int) -> tuple[str, str, int, str]:
    moment = time.gmtime(number * _DAY_SECONDS)
    return _WEEKDAYS[moment.tm_wday], _MONTHS[moment.tm_mon - 1], moment.tm_mday, str(moment.tm_year)


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _rfc_date(epoch: int) -> str:
    day, seconds = divmod(epoch, _DAY_SECONDS)
    weekday, month, mday, year = _day(day)
    return f"{weekday}, {mday} {month} {year} {_clock(seconds)} +0000"


def _asctime(epoch: int) -> str:
    day, seconds = divmod(epoch, _DAY_SECONDS)
    weekday, month, mday, year = _day(day)
    return f"{weekday} {month} {mday:2d} {_clock(seconds)} {year}"


def _main() -> None:
    parser = argparse.ArgumentParser(description="Write a synthetic mail archive.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", default=MONDAY_2025)
    parser.add_argument("--days", type=int, default=DAYS)
    options = parser.parse_args()
    write_mbox(options.path, options.messages, options.seed, options.start, options.days)


if __name__ == "__main__":
    _main()
