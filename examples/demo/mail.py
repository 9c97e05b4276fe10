"""The mail of a small firm that makes instruments for harbours: a file for each week. Nobody in it exists.

    python examples/demo/mail.py build/demo/mail --seed 7

writes older/<week>.mbox, on which a base model can be trained, weeks/<week>.mbox, that a cycle each
takes in, and facts.json: what was true of each project in each week. Each week opens a workstream;
facts of the ones before it go on changing; in a quiet week there is only small talk. A few mails a
week are odd, as in any archive. The same arguments give the same bytes.
"""

from __future__ import annotations

import argparse
import base64
import datetime as dt
import json
from dataclasses import dataclass, field
from pathlib import Path

from dice import Dice
from people import DOMAIN, Person, people
from projects import Project, workstreams
from threads import Post, Thread, Week

FIRST_MONDAY = dt.datetime(2025, 1, 6, tzinfo=dt.UTC)
OLDER_WEEKS = 12
CYCLE_WEEKS = 3
QUIET_WEEK = 1
"""Which of the cycles' weeks brings no news, from 0."""
THREADS_A_WEEK = 120
QUIET_THREADS = 24


@dataclass
class WeekOfMail:
    """What came in a week."""

    name: str
    mails: list[tuple[dt.datetime, bytes]] = field(default_factory=list)
    """By date: when, and the mail as it is stored."""
    facts: dict[str, dict[str, str]] = field(default_factory=dict)
    """What is true at its end: value by kind by project."""


def archive(
    seed: int,
    *,
    older: int = OLDER_WEEKS,
    cycles: int = CYCLE_WEEKS,
    quiet: int | None = QUIET_WEEK,
    threads: int = THREADS_A_WEEK,
) -> tuple[list[WeekOfMail], list[WeekOfMail]]:
    """The older weeks, and those for the cycles."""
    staff = people(seed)
    streams = workstreams(seed, older + cycles, staff)
    weeks: list[WeekOfMail] = []
    projects: dict[str, Project] = {}
    for number, stream in enumerate(streams):
        dice = Dice("week", seed, number)
        is_quiet = quiet is not None and number == older + quiet
        changed = [] if is_quiet else _change(dice, projects, staff)
        if not is_quiet:
            projects |= {project.name: project for project in stream.projects}
        talk = Week(dice, staff, stream, changed).threads(QUIET_THREADS if is_quiet else threads, is_quiet=is_quiet)
        week = _week_of_mail(dice, number, talk)
        if number >= older:
            week.mails += _odd_mails(dice, number, staff, week)
        week.mails.sort(key=lambda mail: mail[0])
        week.facts = {name: dict(project.facts) for name, project in projects.items()}
        weeks.append(week)
    return weeks[:older], weeks[older:]


def write(folder: Path, older: list[WeekOfMail], cycles: list[WeekOfMail]) -> None:
    """An mbox for each week, and facts.json."""
    for part, weeks in (("older", older), ("weeks", cycles)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for week in weeks:
            entries = (_mbox_entry(when, raw) for when, raw in week.mails)
            (folder / part / f"{week.name}.mbox").write_bytes(b"".join(entries))
    facts = {week.name: week.facts for week in (*older, *cycles)}
    (folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")


def _change(dice: Dice, projects: dict[str, Project], staff: list[Person]) -> list[Project]:
    """Change one fact of each of two projects of late; those, as they are now."""
    late = list(projects.values())[-6:]
    changed = [project.changed(dice, dice.pick(sorted(project.facts)), staff) for project in dice.some(late, 2)]
    projects.update({project.name: project for project in changed})
    return changed


def _week_of_mail(dice: Dice, number: int, threads: list[Thread]) -> WeekOfMail:
    monday = FIRST_MONDAY + dt.timedelta(weeks=number)
    year, iso_week, _ = monday.isocalendar()
    week = WeekOfMail(f"{year}-w{iso_week:02d}")
    for thread in threads:
        start = monday + dt.timedelta(days=dice.below(5), hours=8, minutes=dice.below(8 * 60))
        week.mails += _mails(dice, thread, start)
    return week


def _mails(dice: Dice, thread: Thread, start: dt.datetime) -> list[tuple[dt.datetime, bytes]]:
    mails: list[tuple[dt.datetime, bytes]] = []
    ids: list[str] = []
    whens: list[dt.datetime] = []
    when = start
    for post in thread.posts:
        ids.append(_message_id(dice, when))
        whens.append(when)
        headers = {"Subject": thread.subject if post.parent is None else f"Re: {thread.subject}"}
        quote = ""
        if post.parent is not None:
            headers |= {"In-Reply-To": ids[post.parent], "References": " ".join(_line(thread, post.parent, ids))}
            quote = _quote(thread.posts[post.parent], whens[post.parent])
        mails.append((when, _render(post, when, {"Message-ID": ids[-1]} | headers, quote)))
        when += dt.timedelta(minutes=dice.between(4, 300), seconds=dice.below(60))
    return mails


def _line(thread: Thread, index: int, ids: list[str]) -> list[str]:
    """A mail's ancestors and itself, the oldest first."""
    parent = thread.posts[index].parent
    return [*([] if parent is None else _line(thread, parent, ids)), ids[index]]


def _message_id(dice: Dice, when: dt.datetime) -> str:
    return f"<{int(when.timestamp()):x}.{dice.below(10**9):09d}@{DOMAIN}>"


def _quote(post: Post, when: dt.datetime) -> str:
    lines = "\n".join(f"> {line}".rstrip() for line in post.text.splitlines())
    return f"On {_date(when)}, {post.author.first} {post.author.last} wrote:\n{lines}\n"


def _render(post: Post, when: dt.datetime, headers: dict[str, str], quote: str) -> bytes:
    text = post.text + "\n"
    if quote and post.author.voice.quotes:
        text = f"{quote}\n{text}" if post.author.voice.signature else f"{text}\n{quote}"
    text += f"\n{post.author.signature}" if post.author.signature else ""
    fields = {"From": post.author.header, "To": f"Crew <crew@{DOMAIN}>", "Date": _date(when)} | headers
    if post.author.voice.html:
        return _head(fields) + _alternative(text, headers["Message-ID"].strip("<>"))
    fields |= {"MIME-Version": "1.0", "Content-Type": "text/plain; charset=utf-8", "Content-Transfer-Encoding": "8bit"}
    return _head(fields) + b"\n" + text.encode()


def _head(fields: dict[str, str]) -> bytes:
    return "".join(f"{name}: {value}\n" for name, value in fields.items()).encode()


def _page(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", "<br>\n")
    return f"<html><body><p>{escaped}</p></body></html>\n"


def _alternative(text: str, boundary: str) -> bytes:
    page = base64.encodebytes(_page(text).encode()).decode()
    return f"""\
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="{boundary}"

--{boundary}
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

{text}
--{boundary}
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: base64

{page}
--{boundary}--
""".encode()


def _odd_mails(dice: Dice, number: int, staff: list[Person], week: WeekOfMail) -> list[tuple[dt.datetime, bytes]]:
    """What every archive has some of; see ODD."""
    start = FIRST_MONDAY + dt.timedelta(weeks=number, hours=9)
    found = [dice.pick(week.mails)]  # a second copy of a mail
    for place, (name, make) in enumerate(ODD.items()):
        when = start + dt.timedelta(hours=20 * place, minutes=dice.below(60))
        writer = dice.pick(staff)
        fields = {"From": writer.header, "To": f"Crew <crew@{DOMAIN}>", "Date": _date(when)}
        found.append((when, make(fields | {"Message-ID": f"<odd.{number}.{name}@{DOMAIN}>"}, writer)))
    return found


def _without_id(fields: dict[str, str], writer: Person) -> bytes:
    del fields["Message-ID"]
    return (
        _head(fields | {"Subject": "from my phone"})
        + f"\nThe ferry is late, I am late too.\n\n{writer.first}\n".encode()
    )


def _bad_charset(fields: dict[str, str], writer: Person) -> bytes:
    head = fields | {"Subject": "café", "Content-Type": "text/plain; charset=x-harbour"}
    return _head(head) + f"\nThe café at the pier is déjà vu.\n\n{writer.first}\n".encode("latin-1")


def _html_only(fields: dict[str, str], writer: Person) -> bytes:
    head = fields | {"Subject": "menu of the week", "MIME-Version": "1.0", "Content-Type": "text/html; charset=utf-8"}
    return _head(head) + b"\n" + _page(f"Fish on Friday.\n\n{writer.first}").encode()


def _ghost_reply(fields: dict[str, str], writer: Person) -> bytes:
    head = fields | {"Subject": "Re: keys", "In-Reply-To": f"<gone.{fields['Message-ID'].strip('<>')}>"}
    return _head(head) + f"\nThe keys are at the front desk.\n\n{writer.first}\n".encode()


def _notice(fields: dict[str, str], _writer: Person) -> bytes:
    head = fields | {
        "From": f"Backup <backup@{DOMAIN}>",
        "Subject": "backup finished",
        "Auto-Submitted": "auto-generated",
    }
    return _head(head) + b"\n0 errors\n"


ODD = {
    "no-id": _without_id,
    "charset": _bad_charset,
    "html": _html_only,
    "ghost": _ghost_reply,
    "notice": _notice,
}
"""Beside a duplicate: no Message-ID, an unknown charset, HTML alone, an answer to what is not there, a machine's."""


def _mbox_entry(when: dt.datetime, raw: bytes) -> bytes:
    return f"From crew@{DOMAIN} {when:%a %b} {when.day:2d} {when:%H:%M:%S %Y}\n".encode() + raw + b"\n"


def _date(when: dt.datetime) -> str:
    return f"{when:%a}, {when.day} {when:%b %Y %H:%M:%S} +0000"


def main() -> None:
    """Write an archive."""
    parser = argparse.ArgumentParser(description="Write the mail of a firm that does not exist.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--older-weeks", type=int, default=OLDER_WEEKS)
    parser.add_argument("--weeks", type=int, default=CYCLE_WEEKS)
    parser.add_argument("--quiet-week", type=int, default=QUIET_WEEK, help="one of the weeks, from 0; -1 for none")
    parser.add_argument("--threads", type=int, default=THREADS_A_WEEK, help="in a week")
    options = parser.parse_args()
    quiet = options.quiet_week if options.quiet_week >= 0 else None
    older, cycles = archive(
        options.seed, older=options.older_weeks, cycles=options.weeks, quiet=quiet, threads=options.threads
    )
    write(options.folder, older, cycles)
    for part, weeks in (("older", older), ("new", cycles)):
        counts = ", ".join(str(len(week.mails)) for week in weeks)
        print(f"mail: {len(weeks)} {part} weeks of {counts} mails")


if __name__ == "__main__":
    main()
