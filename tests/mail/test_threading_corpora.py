"""Threads of real mail: notmuch's, Dovecot's imaptest, jwz's, and a half-year of linux-raid."""

from __future__ import annotations

import json
import mailbox
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mail_threads import Archive, groups_of

from jobs.mail.headers import Headers, message_id, message_ids, parse_date, split_header
from jobs.mail.threading import outline, thread_references


@dataclass
class Mail:
    message_id: str
    refs: list[str]
    date: str
    sender: str
    subject: str

    @classmethod
    def read(cls, raw: bytes, number: int) -> Mail:
        headers = Headers(split_header(raw)[0])
        date = parse_date(headers.get(b"date"))
        references, in_reply_to = message_ids(headers.get(b"references")), message_ids(headers.get(b"in-reply-to"))
        return cls(
            message_id=message_id(headers.get(b"message-id")) or f"without-id-{number}",
            refs=thread_references(references, in_reply_to),
            date=date.isoformat() if date else "",
            sender=headers.text(b"from"),
            subject=headers.text(b"subject"),
        )


def read_folder(folder: Path) -> list[Mail]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    mails = [Mail.read(file.read_bytes(), number) for number, file in enumerate(files)]
    return sorted(mails, key=lambda mail: (mail.date, mail.message_id))


def read_mbox(path: Path) -> list[Mail]:
    return [Mail.read(mail.as_bytes(), number) for number, mail in enumerate(mailbox.mbox(path))]


def as_pairs(found: list[Mail]) -> list[tuple[str, list[str]]]:
    return [(mail.message_id, mail.refs) for mail in found]


def test_notmuch_default_has_exactly_its_24_trees(corpora):
    expected = json.loads((corpora / "threading/notmuch-default.json").read_text())
    found = {mail.message_id: mail for mail in read_folder(corpora / "notmuch/default")}
    threads = outline(as_pairs(list(found.values())))
    assert (len(found), len(threads)) == (52, 24)

    def described(entry):
        mail = found[entry.message_id]
        return mail.date[:10], mail.sender.split("<")[0].strip(' "')[:20], entry.depth

    theirs = [[(entry["date"], entry["author"], entry["depth"]) for entry in t] for t in expected["threads"]]
    assert sorted([described(entry) for entry in thread] for thread in threads) == sorted(theirs)
    groups = {frozenset(entry.message_id for entry in thread) for thread in threads}
    assert groups >= set(map(frozenset, expected["header_derived_groups"]))


def test_notmuch_threading_has_three_threads(corpora):
    threads = outline(as_pairs(read_folder(corpora / "notmuch/threading")))
    assert [[(e.depth, e.message_id.split("@")[0][:22]) for e in thread] for thread in threads] == [
        [
            (0, "000-real-root"),
            (1, "001-child"),
            (2, "001-fake-message-root"),
            (2, "001-grand-child"),
            (3, "001-great-grand-child"),
            (2, "001-grand-child2"),
        ],
        [(0, "B00-root"), (1, "B01-child"), (1, "B01-grand-child")],
        [(0, "87bmc6lp3h.fsf"), (1, "rt-4.2.8-22046-1529425"), (0, "rt-4.2.8-6644-15300170")],
    ]


def test_notmuch_broken_and_duplicates_end_with_every_message_once(corpora):
    broken = as_pairs(read_folder(corpora / "notmuch/broken"))
    assert sorted(len(thread) for thread in outline(broken)) == [1, 1, 2]
    duplicates = as_pairs(read_folder(corpora / "notmuch/duplicate"))
    assert len(duplicates) == 9
    assert [len(thread) for thread in outline(duplicates)] == [1, 1, 1]


IMAPTEST_DISAGREEMENTS = {
    "thread.mbox": {frozenset({1, 2, 3})},  # a loop: 2 names 1 and 3, 3 names 2; RFC 5256 cuts 1 off, we keep all
    "thread2.mbox": {frozenset({1})},  # the same bytes twice: one message
    "thread4.mbox": {frozenset({1}), frozenset({2})},  # the subject alone joins nothing
}


def test_imaptest(corpora):
    rows = json.loads((corpora / "threading/imaptest/expected.json").read_text())
    rows = [row for row in rows if row["algorithm"] == "REFERENCES"]
    assert len(rows) == 8
    for row in rows:
        first_bytes: dict[str, bytes] = {}
        found: dict[str, tuple[int, list[str]]] = {}
        for number, mail in enumerate(mailbox.mbox(corpora / "threading/imaptest" / row["mbox"]), start=1):
            raw = mail.as_bytes()
            read = Mail.read(raw, number)
            if first_bytes.setdefault(read.message_id, raw) is raw:
                found[read.message_id] = number, read.refs
            elif first_bytes[read.message_id] != raw:  # another mail of the same id: kept, beside the first
                found[f"{read.message_id}#{number}"] = number, [*read.refs, read.message_id]
        pairs = [(mid, refs) for mid, (number, refs) in found.items() if number <= (row["first_n_messages"] or number)]
        groups = {frozenset(found[mid][0] for mid in group) for group in groups_of(pairs)}
        expected = set(map(frozenset, row["groups"]))
        assert groups == IMAPTEST_DISAGREEMENTS.get(row["mbox"], expected), row["mbox"]
        assert groups != expected or row["mbox"] not in IMAPTEST_DISAGREEMENTS


def test_jwz(corpora):
    found = read_mbox(corpora / "threading/jwz/jwz-testthreader.mbox")
    threads = outline(as_pairs(found))
    subject = {mail.message_id: mail.subject for mail in found}
    listed = [entry.message_id for thread in threads for entry in thread]
    assert sorted(listed) == sorted({mail.message_id for mail in found})
    printed = ["".join("  " * e.depth + subject[e.message_id] + "\n" for e in thread) for thread in threads]
    for expected in (
        "A\n  B\n    C\n      E\n    F\n  D\n",
        "G\nH\n",
        "Loop5\n  Loop4\n",
        "Loop6\n",
        "Ambig1\n  Ambig2\n    Ambig3\n      Ambig4\n        Ambig5a\n        Ambig5b\n",
        "dup\n  dup-kid\n  dup-kid-2\n",
        "missingmessage\n  missingmessage\n",
        "liar 1\nliar 2\n",
        "liar2 1\nliar2 2\n",
        "Welcome to Netscape\n  Re: Welcome to Netscape\n",
    ):
        assert expected in printed
    loops = {frozenset(re.findall(r"Loop\d+", text)) for text in printed if "Loop" in text}
    assert frozenset({"Loop1", "Loop2", "Loop3"}) in loops


def test_linux_raid_has_345_threads_in_any_order_and_month_by_month(corpora):
    months = [as_pairs(read_mbox(path)) for path in sorted((corpora / "linux-raid-2019H2").glob("*.mbox"))]
    found = [pair for month in months for pair in month]
    assert len(found) == 1242
    archive = Archive(found)
    sizes = np.bincount(archive.assign(found).thread)
    assert (len(sizes), (sizes > 1).sum()) == (345, 192)
    backwards = Archive(found)
    backwards.assign(found[::-1])
    assert set(map(frozenset, archive.threads().values())) == set(map(frozenset, backwards.threads().values()))

    monthly = Archive(found)
    joins = [join for month in months for join in monthly.assign(month).joins]
    assert monthly.graph.next_thread == 345 + len(joins)
