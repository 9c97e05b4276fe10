"""Cutting mbox files into mails: dialects, line ends, limits, and any bytes at all."""

from __future__ import annotations

import hashlib
import io
import mailbox
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contracts.records import Reject
from jobs.mail import mbox
from jobs.mail.limits import EMPTY, NOT_MAIL, TOO_LARGE, Limits
from jobs.mail.mbox import MboxFormat, RawMail, Splitter, dialect, read_mbox, read_single
from jobs.mail.separators import FROM_LINE, separator_date

SEPARATOR = b"From ann@example.org Mon Jul  1 11:26:48 2019\n"


def read(data: bytes, mbox_format: MboxFormat = "auto", limits: Limits | None = None) -> list[RawMail | Reject]:
    return list(read_mbox(io.BytesIO(data), "box", limits, mbox_format=mbox_format))


def raws(data: bytes, mbox_format: MboxFormat = "auto") -> list[bytes]:
    found = read(data, mbox_format)
    assert all(isinstance(item, RawMail) for item in found)
    return [item.raw for item in found if isinstance(item, RawMail)]


# ---- separators


@pytest.mark.parametrize(
    ("line", "date"),
    [
        (b"From ann@example.org Mon Jul  1 11:26:48 2019\n", "2019-07-01T11:26:48Z"),
        (b"From mboxrd@z Sun Sep 22 20:00:18 2019\r\n", "2019-09-22T20:00:18Z"),
        (b"From - Thu Jan 01 00:00:01 2004", "2004-01-01T00:00:01Z"),
        (b"From MAILER-DAEMON Fri Jul  8 12:08 2011\n", "2011-07-08T12:08:00Z"),
        (b"From 1234567890123456789@xxx Thu Jun 06 12:00:00 +0200 2013\n", "2013-06-06T10:00:00Z"),
        (b"From ann@example.org Thu Jun  6 12:00:00 PST 2013\n", "2013-06-06T20:00:00Z"),
        (b"From ann@example.org Thu Jun  6 12:00:00 2013 +0200\n", "2013-06-06T10:00:00Z"),
        (b"From ann at example.org  Thu Jun  6 12:00:00 2013\n", "2013-06-06T12:00:00Z"),
        (b"From ann Thu Jun  6 12:00:00 2013 remote from host\n", "2013-06-06T12:00:00Z"),
        (b"From ann@example.org Thu, 6 Jun 2013 12:00:00 +0200\n", "2013-06-06T10:00:00Z"),
        (b"From ann@example.org Sat Feb 29 23:59:60 2020\n", "2020-02-29T23:59:59Z"),
        (b"From ann@example.org sat feb 29 1:02:03 2020\n", "2020-02-29T01:02:03Z"),
    ],
)
def test_dates_of_separators(line: bytes, date: str) -> None:
    match = FROM_LINE.fullmatch(line)
    assert match is not None
    assert separator_date(match) == date


@pytest.mark.parametrize(
    "line",
    [
        b"From here on it gets difficult.\n",
        b"From ann@example.org\n",
        b"From Mon Jul  1 11:26:48 2019 on, all is well\n",
        b"From ann@example.org Mon Jul 32 11:26:48 2019\n",
        b"From ann@example.org Sat Feb 29 11:26:48 2019\n",
        b"From ann@example.org Mon Jul  1 25:26:48 2019\n",
        b"From ann@example.org Mon Jul  1 11:66:48 2019\n",
        b"From ann@example.org Mon Jxl  1 11:26:48 2019\n",
        b"From ann@example.org " + b"x" * 1000 + b" Mon Jul  1 11:26:48 2019\n",
    ],
)
def test_lines_that_do_not_separate(line: bytes) -> None:
    match = FROM_LINE.fullmatch(line)
    assert match is not None
    assert separator_date(match) is None
    body = b"Subject: x\n\nBefore.\n\n" + line + b"After.\n"
    assert raws(SEPARATOR + body) == [body]


def test_a_separator_needs_a_blank_line_before_it() -> None:
    body = b"Subject: x\n\nThe line\n" + SEPARATOR + b"was quoted.\n"
    assert raws(SEPARATOR + body) == [body]


def test_the_standard_library_counts_more(tmp_path: Path) -> None:
    body = b"Subject: x\n\nFrom time to time\nFrom here\n\nFrom ann\n"
    path = tmp_path / "box"
    path.write_bytes(SEPARATOR + body + b"\n" + SEPARATOR + body)
    assert len(mailbox.mbox(path)) == 8
    assert raws(path.read_bytes()) == [body, body]


# ---- what belongs to a mail


def test_offsets_dates_and_the_blank_line_that_is_no_part_of_a_mail() -> None:
    first, second = b"Subject: 1\n\nOne.\n", b"Subject: 2\n\nTwo.\n\n"
    data = SEPARATOR + first + b"\n" + SEPARATOR.replace(b"48", b"49") + second + b"\n"
    assert read(data) == [
        RawMail(first, "box", len(SEPARATOR), "2019-07-01T11:26:48Z"),
        RawMail(second, "box", 2 * len(SEPARATOR) + len(first) + 1, "2019-07-01T11:26:49Z"),
    ]


def test_the_last_mail_may_lack_its_blank_line_or_its_line_end() -> None:
    for ending in (b"", b"\n", b"\n\n"):
        assert raws(SEPARATOR + b"Subject: x\n\nHi" + ending) == [b"Subject: x\n\nHi" + ending[:1]]


def test_crlf_and_mixed_line_ends() -> None:
    crlf = SEPARATOR.replace(b"\n", b"\r\n")
    first, second = b"Subject: 1\r\n\r\nOne.\r\n", b"Subject: 2\r\n\r\nTwo.\r\n"
    assert raws(crlf + first + b"\r\n" + crlf + second + b"\r\n") == [first, second]
    assert raws(crlf + first + b"\r\n" + SEPARATOR + second + b"\n" + crlf + first) == [first, second, first]


def test_an_empty_mail_is_told() -> None:
    found = read(SEPARATOR + b"\n" + SEPARATOR + b"Subject: x\n\n\n" + SEPARATOR)
    assert [item.raw for item in found if isinstance(item, RawMail)] == [b"", b"Subject: x\n\n", b""]


def test_the_first_line_separates_without_a_date_too() -> None:
    data = b"From nobody\nSubject: 1\n\nHi.\n\n" + SEPARATOR + b"Subject: 2\n\nHi.\n"
    assert read(data) == [
        RawMail(b"Subject: 1\n\nHi.\n", "box", 12, None),
        RawMail(b"Subject: 2\n\nHi.\n", "box", 29 + len(SEPARATOR), "2019-07-01T11:26:48Z"),
    ]


def test_blank_lines_at_the_start() -> None:
    assert raws(b"\n\r\n\n" + SEPARATOR + b"Subject: x\n\nHi.\n") == [b"Subject: x\n\nHi.\n"]


def test_what_stands_before_the_first_separator_is_a_reject() -> None:
    junk = b"The rest of a mail that was cut.\n"
    assert read(junk + b"\n" + SEPARATOR + b"Subject: x\n\nHi.\n") == [
        Reject("box", 0, len(junk), hashlib.sha256(junk).hexdigest(), NOT_MAIL),
        RawMail(b"Subject: x\n\nHi.\n", "box", len(junk) + 1 + len(SEPARATOR), "2019-07-01T11:26:48Z"),
    ]


def test_nothing_at_all() -> None:
    for data in (b"", b"\n", b"\r\n\r\n"):
        assert [(item.length, item.reason) for item in read(data) if isinstance(item, Reject)] == [(0, EMPTY)]
        assert len(read(data)) == 1


# ---- dialects


def test_only_mboxrd_is_unescaped() -> None:
    body = b"Subject: x\n\n>From here\n>>From there\n> From afar\nx >From\n"
    data = SEPARATOR + body
    for mbox_format in ("auto", "mboxo", "mboxcl", "mboxcl2"):
        assert raws(data, mbox_format) == [body]
    unescaped = b"Subject: x\n\nFrom here\n>From there\n> From afar\nx >From\n"
    assert raws(data, "mboxrd") == [unescaped]
    assert raws(data.replace(b"ann@example.org", b"mboxrd@z")) == [unescaped]
    assert raws(data.replace(b"ann@example.org", b"mboxrd@z"), "mboxo") == [body]


def test_unescaping_touches_the_mail_that_needs_it_alone() -> None:
    one, two = b"Subject: 1\n\n>From x\n", b"Subject: 2\n\n>Fro m\n"
    assert raws(SEPARATOR + one + b"\n" + SEPARATOR + two, "mboxrd") == [b"Subject: 1\n\nFrom x\n", two]


def counted(body: bytes, num_bytes: int | None = None) -> bytes:
    return b"Subject: x\nContent-Length: %d\n\n%b" % (len(body) if num_bytes is None else num_bytes, body)


def test_content_length_keeps_an_unescaped_separator_in_the_body() -> None:
    mail = counted(b"A mailbox:\n\n" + SEPARATOR + b"Subject: y\n\nWithin.\n")
    data = SEPARATOR + mail + b"\n" + SEPARATOR + mail + b"\n"
    for mbox_format in ("auto", "mboxcl", "mboxcl2"):
        assert raws(data, mbox_format) == [mail, mail]
    assert len(raws(data, "mboxo")) == 4
    assert len(raws(data, "mboxrd")) == 4


def test_content_length_may_end_at_a_separator_without_a_blank_line() -> None:
    mail = counted(b"Body.\n")
    assert raws(SEPARATOR + mail + SEPARATOR + mail) == [mail, mail]


@pytest.mark.parametrize("wrong", [0, 3, 7, 1000, 10**11])
def test_a_content_length_that_lands_nowhere_is_ignored(wrong: int) -> None:
    mail = counted(b"Line one.\nLine two.\n", wrong)
    assert raws(SEPARATOR + mail + b"\n" + SEPARATOR + mail + b"\n") == [mail, mail]


def test_content_length_in_a_body_is_no_header() -> None:
    mail = b"Subject: x\n\nContent-Length: 3\n\nabc\n"
    assert raws(SEPARATOR + mail + b"\n" + SEPARATOR + mail) == [mail, mail]


def test_a_patch_within_a_mail_does_not_separate() -> None:
    line = b"From 0123456789abcdef0123456789abcdef01234567 Mon Sep 17 00:00:00 2001\n"
    patch = line + b"From: Ann <ann@example.org>\nSubject: [PATCH] x\n\ndiff\n"
    mail = b"Subject: a patch\n\nHere it is:\n\n" + patch
    assert raws(SEPARATOR + mail + b"\n" + SEPARATOR + mail) == [mail, mail]
    assert len(raws(patch + b"\n" + patch)) == 2


# ---- limits


def test_a_mail_over_the_limit_is_a_reject_and_the_next_one_is_found() -> None:
    large, small = b"Subject: x\n\n" + b"line\n" * 1000, b"Subject: y\n\nHi.\n"
    found = read(SEPARATOR + large + b"\n" + SEPARATOR + small, limits=Limits(max_message_bytes=1000))
    assert found == [
        Reject("box", len(SEPARATOR), len(large), hashlib.sha256(large).hexdigest(), TOO_LARGE),
        RawMail(small, "box", 2 * len(SEPARATOR) + len(large) + 1, "2019-07-01T11:26:48Z"),
    ]


class Endless(io.RawIOBase):
    """A stream with a long stretch of one byte in it that is nowhere held."""

    def __init__(self, before: bytes, filling: bytes, num_bytes: int, after: bytes) -> None:
        self._pieces = [before, num_bytes, after]
        self._filling = filling * (1 << 20)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        while self._pieces and not self._pieces[0]:
            self._pieces.pop(0)
        if not self._pieces:
            return 0
        piece = self._pieces[0]
        if isinstance(piece, int):
            data = self._filling[: min(piece, len(buffer))]
            self._pieces[0] = piece - len(data)
        else:
            data = piece[: len(buffer)]
            self._pieces[0] = piece[len(data) :]
        buffer[: len(data)] = data
        return len(data)


def test_a_gigantic_line_does_not_take_memory() -> None:
    num_bytes = 200 << 20
    small = b"Subject: y\n\nHi.\n"
    stream = Endless(SEPARATOR + b"Subject: x\n\n", b"F", num_bytes, b"\n\n" + SEPARATOR + small)
    tracemalloc.start()
    found = list(read_mbox(io.BufferedReader(stream, 1 << 16), "box", Limits(max_message_bytes=1 << 20)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [item.raw for item in found if isinstance(item, RawMail)] == [small]
    assert isinstance(found[0], Reject)
    assert (found[0].length, found[0].reason) == (num_bytes + 13, TOO_LARGE)
    assert peak < 32 << 20


def test_a_single_mail_over_the_limit_does_not_take_memory() -> None:
    num_bytes = 100 << 20
    tracemalloc.start()
    stream = io.BufferedReader(Endless(b"Subject: x\n\n", b"x", num_bytes, b""), 1 << 16)
    found = read_single(stream, "mail.eml", Limits(max_message_bytes=1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    digest = hashlib.sha256(b"Subject: x\n\n" + b"x" * num_bytes).hexdigest()
    assert found == Reject("mail.eml", 0, num_bytes + 12, digest, TOO_LARGE)
    assert peak < 32 << 20


# ---- any bytes

LINES = st.sampled_from(
    [
        SEPARATOR,
        SEPARATOR.replace(b"\n", b"\r\n"),
        b"From mboxrd@z Mon Jul  1 11:26:49 2019\n",
        b"From 0123456789abcdef0123456789abcdef01234567 Mon Sep 17 00:00:00 2001\n",
        b"From me\n",
        b">From me\n",
        b">>From me",
        b"From ",
        b"\n",
        b"\r\n",
        b"\r",
        b"Subject: x\n",
        b"Content-Length: 10\n",
        b"Content-Length: 60\r\n",
        b"Some text.\n",
        b"x" * 70,
    ]
)
ARCHIVES = st.lists(LINES | st.binary(max_size=12), max_size=30).map(b"".join)
FORMATS = st.sampled_from(mbox.MBOX_FORMATS)


@given(ARCHIVES, FORMATS)
def test_any_bytes_are_cut_in_order_without_overlap(data: bytes, mbox_format: MboxFormat) -> None:
    position = 0
    for item in read(data, mbox_format):
        assert item.offset >= position
        if isinstance(item, Reject):
            piece = data[item.offset : item.offset + item.length]
            assert item.sha256 == hashlib.sha256(piece).hexdigest()
            position = item.offset + item.length
        elif mbox_format not in ("mboxrd", "auto"):
            assert data[item.offset : item.offset + len(item.raw)] == item.raw
            position = item.offset + len(item.raw)
        else:
            position = item.offset


@given(ARCHIVES, FORMATS, st.integers(1, 60), st.sampled_from([50, 200, 1 << 20]))
def test_how_the_stream_is_read_changes_nothing(
    data: bytes, mbox_format: MboxFormat, block_bytes: int, limit: int
) -> None:
    limits = Limits(max_message_bytes=limit)
    expected = read(data, mbox_format, limits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mbox, "BLOCK_BYTES", block_bytes)
        assert read(data, mbox_format, limits) == expected


def mboxrd(mails: list[bytes], newline: bytes) -> bytes:
    """What a writer of mboxrd writes."""
    box = b""
    for mail in mails:
        lines = [b">" + line if line.lstrip(b">").startswith(b"From ") else line for line in mail.split(newline)]
        box += SEPARATOR.rstrip() + newline + newline.join(lines) + newline
    return box


MAILS = st.lists(st.lists(LINES.map(bytes.strip) | st.just(b""), max_size=10), min_size=1, max_size=6)


@given(MAILS, st.sampled_from([b"\n", b"\r\n"]))
def test_what_a_writer_of_mboxrd_wrote_is_read_back(lines: list[list[bytes]], newline: bytes) -> None:
    bodies = [[line.replace(b"\r", b"") for line in mail] for mail in lines]
    mails = [newline.join([b"Subject: x", b"", *body, b"."]) + newline for body in bodies]
    assert raws(mboxrd(mails, newline), "mboxrd") == mails


@given(ARCHIVES, FORMATS, st.integers(0, 400), st.integers(0, 400))
def test_a_range_that_meets_the_whole_reads_the_same(
    data: bytes, mbox_format: MboxFormat, begin: int, length: int
) -> None:
    data = SEPARATOR + data
    known = dialect(mbox_format, FROM_LINE.match(data))
    whole = Splitter(io.BytesIO(data), "box", Limits())
    expected = list(whole.between(known, 0, len(data), exact=True))
    assert expected == read(data, mbox_format)
    stream = io.BytesIO(data)
    stream.seek(max(begin - mbox.CONTEXT_BYTES, 0))
    part = Splitter(stream, "box", Limits())
    found = list(part.between(known, begin, begin + length, exact=False))
    assert (part.first is None) == (not found)
    if part.first is not None:
        assert begin <= part.first < begin + length
        assert part.next > part.first
        line = FROM_LINE.match(data, part.first)
        assert line is not None
        starts = [item.offset for item in expected]
        if line.end() in starts:
            at = starts.index(line.end())
            assert found == expected[at : at + len(found)]
