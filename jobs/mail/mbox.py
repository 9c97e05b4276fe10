"""Mailboxes in one stream: mbox in its dialects, and single mails.

A mail is cut off the stream as its bytes stand there; nothing of it is parsed here but the
separator line. Memory is bounded by the size limit for one mail: what is larger is digested as it
passes and becomes a reject, and no line is ever read as a whole.

Sources: RFC 4155; the dialects mboxo, mboxrd, mboxcl and mboxcl2 as
https://www.loc.gov/preservation/digital/formats/fdd/fdd000383.shtml names them.
"""

from __future__ import annotations

import calendar
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args

from jobs.contracts.records import Reject
from jobs.mail.headers import iso, parse_date
from jobs.mail.limits import EMPTY, NOT_MAIL, TOO_LARGE, Limits

MboxFormat = Literal["auto", "mboxo", "mboxrd", "mboxcl", "mboxcl2"]
MBOX_FORMATS: tuple[MboxFormat, ...] = get_args(MboxFormat)

BLOCK_BYTES = 1 << 20
MAX_SEPARATOR_BYTES = 1000
"""A longer line is no separator."""


class ByteStream(Protocol):
    """What is needed of a stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """That many bytes, fewer at the end alone."""
        ...

    def readline(self, size: int, /) -> bytes:
        """The rest of the line, at most that many bytes of it."""
        ...


@dataclass(frozen=True, slots=True)
class RawMail:
    """One mail as it was found: bytes, and what the place where it lay says about it."""

    raw: bytes
    source: str
    """File name (no folder) or mailbox."""
    offset: int = 0
    """Of its first byte in the decompressed source; the UID for IMAP."""
    envelope_date: str | None = None
    """When it was delivered, UTC in ISO 8601."""
    folder: str | None = None
    labels: tuple[str, ...] = ()


# ---- separator lines

_MONTHS = {name.lower().encode(): number for number, name in enumerate(calendar.month_abbr) if name}
_MONTH = rb"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
_ZONE = rb"(?:\s+([a-z]{1,5}|[+-]\d{4}))?"
_CTIME = re.compile(
    rb"(?:mon|tue|wed|thu|fri|sat|sun)[a-z]{0,6},?\s+"
    + _MONTH
    + rb"\s+(\d{1,2})\s+(\d{1,2}):(\d\d)(?::(\d\d))?"
    + _ZONE
    + rb"\s+(\d{4})"
    + _ZONE
    + rb"(?:\s+remote from \S+)?\s*$",
    re.IGNORECASE,
)
_RFC5322 = re.compile(
    rb"\s((?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]{0,6},?\s+)?\d{1,2}[ -]" + _MONTH + rb"[ -]\d{4}\s+\d{1,2}:\d\d.*)$",
    re.IGNORECASE,
)
_GIT_PATCH = re.compile(rb"From [0-9a-f]{40} Mon Sep 17 00:00:00 2001\s*$")
_DECLARES_MBOXRD = b"From mboxrd@z "
_ESCAPED = re.compile(rb"^>(>*From )", re.MULTILINE)


def separator_date(line: bytes) -> str | None:
    """The delivery date, UTC in ISO 8601, of an mbox separator; None where the line is none.

    A separator is `From `, anything, and a date that parses, up to the end of the line. Dates are
    ctime's, with or without seconds and a zone before or behind the year, or RFC 5322's.
    """
    if not line.startswith(b"From ") or len(line) > MAX_SEPARATOR_BYTES:
        return None
    match = _CTIME.search(line, 4)
    if match is None:
        other = _RFC5322.search(line, 4)
        moment = parse_date(other[1]) if other is not None else None
        return iso(moment) if moment is not None else None
    month, day, hour, minute, second, zone, year, late_zone = match.groups()
    zone = zone or late_zone or b""
    text = b"%b %b %b %b:%b:%b %b" % (day, month, year, hour, minute, second or b"00", zone)
    if zone:
        moment = parse_date(text)
        return iso(moment) if moment is not None else None
    return _utc((int(year), _MONTHS[month.lower()], int(day)), (int(hour), int(minute), int(second or 0)))


def _utc(date: tuple[int, int, int], clock: tuple[int, int, int]) -> str | None:
    """A UTC time in ISO 8601, without the cost of a datetime; None where there is no such day or time."""
    year, month, day = date
    hour, minute, second = clock
    if not (1970 <= year <= 2100 and 1 <= day <= calendar.mdays[month] + (month == 2 and year % 4 == 0)):
        return None
    if hour > 23 or minute > 59 or second > 60:
        return None
    return f"{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{min(second, 59):02}Z"


# ---- the stream


class _Window:
    """The part of a stream that is in memory: it begins at offset `base` and ends at the end of a line.

    (Or behind the first MAX_SEPARATOR_BYTES of a line that is longer: so a separator is never cut.)
    """

    __slots__ = ("_stream", "base", "data", "ended")

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self.data = b""
        self.base = 0
        self.ended = False

    def grow(self, keep: int) -> int:
        """Read on, and drop what lies before index `keep`; the index that `keep` has now.

        The two bytes before it stay: they say whether a blank line precedes it.
        """
        dropped = max(keep - 2, 0)
        kept = self.data[dropped:]
        # Doubling keeps the copies of a mail that grows and grows linear in its size.
        block = self._stream.read(max(BLOCK_BYTES, len(kept)))
        if block and not block.endswith(b"\n"):
            block += self._stream.readline(MAX_SEPARATOR_BYTES)
        self.ended = not block
        self.data = kept + block
        self.base += dropped
        return keep - dropped

    def line(self, start: int) -> bytes:
        """The line that begins at an index, with its end; at most MAX_SEPARATOR_BYTES and one."""
        end = self.data.find(b"\n", start, start + MAX_SEPARATOR_BYTES)
        return self.data[start : end + 1 if end >= 0 else start + MAX_SEPARATOR_BYTES + 1]


class _Splitter:
    """Cuts one mbox into mails; iterate once."""

    def __init__(
        self, stream: ByteStream, source: str, limits: Limits, *, mbox_format: MboxFormat, folder: str | None
    ) -> None:
        self._window = _Window(stream)
        self._source = source
        self._limits = limits
        self._folder = folder
        self._start = 0
        """Index in the window at which the present mail begins."""
        self._escaped = mbox_format == "mboxrd"
        self._counted = mbox_format in ("auto", "mboxcl", "mboxcl2")
        """Whether a Content-Length may say where the body ends."""
        self._declared = mbox_format != "auto"
        self._git_patches = False
        """Whether git's patch line separates: in a file that begins with one, not in a mail that quotes one."""

    def __iter__(self) -> Iterator[RawMail | Reject]:
        window = self._window
        date, headed = self._begin()
        while True:
            boundary = self._boundary()
            if boundary is None:
                reject, boundary = self._pass_over()
                yield reject if headed else replace(reject, reason=NOT_MAIL)
            elif headed:
                yield self._mail(boundary[0], date)
            elif boundary[0] > self._start or boundary[1] == len(window.data):
                yield self._reject(boundary[0], NOT_MAIL if boundary[0] > self._start else EMPTY)
            _, separator, date = boundary
            if separator == len(window.data):
                return
            self._start = separator + len(window.line(separator))
            headed = True

    def _begin(self) -> tuple[str | None, bool]:
        """Step over blank lines and the first separator: its date, and whether there was one.

        The very first line may be a separator without a date.
        """
        window = self._window
        window.grow(0)
        while not window.ended and not window.data.strip(b"\r\n"):
            window.grow(len(window.data))
        self._start = len(window.data) - len(window.data.lstrip(b"\r\n"))
        line = window.line(self._start)
        if not line.startswith(b"From "):
            return None, False
        self._start += len(line)
        self._git_patches = _GIT_PATCH.match(line) is not None
        if not self._declared:
            self._escaped = line.startswith(_DECLARES_MBOXRD)
            self._counted = not self._escaped
        return separator_date(line), True

    def _boundary(self) -> tuple[int, int, str | None] | None:
        """End of the present mail, index of the next separator (or of the stream's end), its date.

        None where the mail is larger than the limit.
        """
        if self._counted and (counted := self._by_content_length()) is not None:
            return counted
        window = self._window
        search = self._start
        while (found := self._next_separator(search)) is None:
            num_bytes = len(window.data) - self._start
            if window.ended:
                return self._start + _without_blank_line(window.data[self._start :]), len(window.data), None
            if num_bytes > self._limits.max_message_bytes:
                return None
            self._start = window.grow(self._start)
            search = self._start + max(num_bytes - 3, 0)
        return found

    def _next_separator(self, search: int) -> tuple[int, int, str] | None:
        data = self._window.data
        at = data.find(b"\nFrom ", search)
        while at >= 0:
            blank = 0 if data[at - 1 : at] == b"\n" else 1 if data[at - 2 : at] == b"\n\r" else -1
            if blank >= 0:
                line = self._window.line(at + 1)
                date = separator_date(line)
                if date is not None and (self._git_patches or _GIT_PATCH.match(line) is None):
                    return at - blank, at + 1, date
            at = data.find(b"\nFrom ", at + 6)
        return None

    def _by_content_length(self) -> tuple[int, int, str | None] | None:
        """The boundary that Content-Length names, where there is one; None where it names none."""
        window = self._window
        body = self._body_begin()
        header = window.data[self._start : body].lower()
        at = header.find(b"\ncontent-length:")
        digits = header[at + 16 : header.find(b"\n", at + 1)].strip() if at >= 0 else b""
        if not digits.isdigit() or len(digits) > 12:
            return None
        num_bytes = body - self._start + int(digits)
        if num_bytes > self._limits.max_message_bytes:
            return None
        while len(window.data) - self._start <= num_bytes + MAX_SEPARATOR_BYTES and not window.ended:
            self._start = window.grow(self._start)
        end = self._start + num_bytes
        if end > len(window.data):
            return None
        behind = window.data[end : end + 4]
        separator = end + len(behind) - len(behind.lstrip(b"\r\n"))
        if separator == len(window.data):
            return end, separator, None
        date = separator_date(window.line(separator))
        starts_a_line = window.data[separator - 1 : separator] == b"\n"
        return (end, separator, date) if date is not None and starts_a_line else None

    def _body_begin(self) -> int:
        """Index behind the blank line that ends the header; that of its start where there is none in reach."""
        window = self._window
        search = self._start
        while (match := _BLANK_LINE.search(window.data, search)) is None:
            num_bytes = len(window.data) - self._start
            if window.ended or num_bytes > self._limits.max_header_bytes:
                return self._start
            self._start = window.grow(self._start)
            search = self._start + max(num_bytes - 3, 0)
        return match.end()

    def _pass_over(self) -> tuple[Reject, tuple[int, int, str | None]]:
        """Digest a mail that is too large as it goes by: its reject, and the boundary behind it."""
        window = self._window
        offset = window.base + self._start
        digest = hashlib.sha256()
        found: tuple[int, int, str | None] | None = None
        while found is None and not window.ended:
            # The last bytes wait: a blank line that turns out to end the mail is no part of it.
            hashed = max(len(window.data) - 8, self._start)
            digest.update(window.data[self._start : hashed])
            self._start = window.grow(hashed)
            found = self._next_separator(self._start + 4)
        rest = window.data[self._start :]
        boundary = found or (self._start + _without_blank_line(rest), len(window.data), None)
        digest.update(window.data[self._start : boundary[0]])
        num_bytes = window.base + boundary[0] - offset
        return Reject(self._source, offset, num_bytes, digest.hexdigest(), TOO_LARGE), boundary

    def _mail(self, end: int, date: str | None) -> RawMail | Reject:
        window = self._window
        raw = window.data[self._start : end]
        if len(raw) > self._limits.max_message_bytes:
            return self._reject(end, TOO_LARGE)
        if self._escaped and b">From " in raw:
            raw = _ESCAPED.sub(rb"\1", raw)
        return RawMail(raw, self._source, window.base + self._start, date, self._folder)

    def _reject(self, end: int, reason: str) -> Reject:
        raw = self._window.data[self._start : end]
        return Reject(self._source, self._window.base + self._start, len(raw), hashlib.sha256(raw).hexdigest(), reason)


_BLANK_LINE = re.compile(rb"\n\r?\n")


def _without_blank_line(data: bytes) -> int:
    """Length of a mail without the blank line that may follow it."""
    for ending in (b"\n\n", b"\n\r\n"):
        if data.endswith(ending):
            return len(data) - len(ending) + 1
    return 0 if data in (b"\n", b"\r\n") else len(data)


def read_mbox(
    stream: ByteStream,
    source: str,
    limits: Limits | None = None,
    *,
    mbox_format: MboxFormat = "auto",
    folder: str | None = None,
) -> Iterator[RawMail | Reject]:
    """The mails of an mbox in order, and a reject for each piece that is none.

    A separator is a `From ` line with a date that parses, at the start or behind a blank line;
    neither belongs to a mail. `>From ` is unescaped in mboxrd alone; `auto` takes a file for mboxrd
    where its first separator says so, as public-inbox's do. Content-Length counts in mboxcl and
    `auto`, and only where it lands on a separator or the end. `stream` is read to its end; the
    errors of reading pass through.
    """
    return iter(_Splitter(stream, source, limits or Limits(), mbox_format=mbox_format, folder=folder))


def read_single(
    stream: ByteStream,
    source: str,
    limits: Limits | None = None,
    *,
    envelope_date: str | None = None,
    folder: str | None = None,
    labels: tuple[str, ...] = (),
) -> RawMail | Reject:
    """The one mail that a stream holds; blank lines before it are dropped."""
    limit = (limits or Limits()).max_message_bytes
    blocks: list[bytes] = []
    num_bytes = 0
    while num_bytes <= limit and (block := stream.read(BLOCK_BYTES)):
        blocks.append(block)
        num_bytes += len(block)
    data = b"".join(blocks)
    if num_bytes > limit:
        digest = hashlib.sha256(data)
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
            num_bytes += len(block)
        return Reject(source, 0, num_bytes, digest.hexdigest(), TOO_LARGE)
    raw = data.lstrip(b"\r\n")
    return RawMail(raw, source, len(data) - len(raw), envelope_date, folder, labels)
