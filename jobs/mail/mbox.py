"""Mailboxes in one stream: mbox in its dialects, and single mails.

A mail is cut off the stream as its bytes stand there; nothing of it is parsed here but the
separator line. Memory is bounded by the size limit for one mail: what is larger is digested as it
passes and becomes a reject, and no line is ever read as a whole.

Sources: RFC 4155; the dialects mboxo, mboxrd, mboxcl and mboxcl2 as
https://www.loc.gov/preservation/digital/formats/fdd/fdd000383.shtml names them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, NamedTuple, Protocol, get_args

from jobs.contracts.records import Reject
from jobs.mail.limits import EMPTY, NOT_MAIL, TOO_LARGE, Limits
from jobs.mail.separators import FROM_LINE, MAX_SEPARATOR_BYTES, is_git_patch, separator_date

MboxFormat = Literal["auto", "mboxo", "mboxrd", "mboxcl", "mboxcl2"]
MBOX_FORMATS: tuple[MboxFormat, ...] = get_args(MboxFormat)

BLOCK_BYTES = 1 << 20
CONTEXT_BYTES = 3
"""What must be known of the bytes before a separator, to see whether a blank line precedes it."""


class ByteStream(Protocol):
    """What is needed of a stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """That many bytes, fewer at the end alone."""
        ...

    def readline(self, size: int, /) -> bytes:
        """The rest of the line, at most that many bytes of it."""
        ...


class RawMail(NamedTuple):
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


class Dialect(NamedTuple):
    """How one mbox is to be read."""

    escaped: bool
    """`>From ` at the start of a line stands for `From `."""
    counted: bool
    """A Content-Length may say where a body ends."""
    git_patches: bool
    """git's patch line separates: in a file that begins with one, not in a mail that quotes one."""


_DECLARES_MBOXRD = b"From mboxrd@z "
"""Public-inbox begins each mail of an mboxrd so."""


def dialect(mbox_format: MboxFormat, first: re.Match[bytes] | None) -> Dialect:
    """The dialect of an mbox by the format that the user declared, and the FROM_LINE that it begins with."""
    declares = mbox_format == "auto" and first is not None and first[0].startswith(_DECLARES_MBOXRD)
    return Dialect(
        escaped=declares or mbox_format == "mboxrd",
        counted=not declares and mbox_format in ("auto", "mboxcl", "mboxcl2"),
        git_patches=first is not None and is_git_patch(first),
    )


_NEWLINE, _RETURN, _GREATER_THAN = b"\n\r>"
_ESCAPED = re.compile(rb"^>(>*From )", re.MULTILINE)
_CONTENT_LENGTH = re.compile(rb"\n(?:content-length:[ \t]*(\d{1,12})[ \t]*(?=\r?\n)|\r?\n)", re.IGNORECASE)
_BLANK_LINE = re.compile(rb"\n\r?\n")


class _Window:
    """The part of a stream that is in memory: it begins at offset `base` and ends at the end of a line.

    (Or behind the first MAX_SEPARATOR_BYTES of a line that is longer: so a separator is never cut.)
    """

    __slots__ = ("_stream", "base", "data", "ended")

    def __init__(self, stream: ByteStream, base: int) -> None:
        self._stream = stream
        self.data = b""
        self.base = base
        self.ended = False

    def grow(self, keep: int) -> int:
        """Read on, and drop what lies before index `keep` but for its context; the index that `keep` has now."""
        dropped = max(keep - CONTEXT_BYTES, 0)
        kept = self.data[dropped:]
        # Doubling keeps the copies of a mail that grows and grows linear in its size.
        block = self._stream.read(max(BLOCK_BYTES, len(kept)))
        if block and not block.endswith(b"\n"):
            block += self._stream.readline(MAX_SEPARATOR_BYTES)
        self.ended = not block
        self.data = kept + block
        self.base += dropped
        return keep - dropped


class _Boundary(NamedTuple):
    """What ends a mail, by index in the window."""

    end: int
    """Where the mail ends."""
    separator: int
    """Where the next separator begins; the end of the stream where there is none."""
    start: int | None
    """Where the next mail begins; None where there is none."""
    date: str | None
    """The date of the separator."""


class Splitter:
    """Cuts one mbox into mails. Use one of `all` and `between`, once."""

    def __init__(self, stream: ByteStream, source: str, limits: Limits, folder: str | None = None) -> None:
        self._stream = stream
        self._window = _Window(stream, 0)
        self._source = source
        self._limits = limits
        self._folder = folder
        self._dialect = dialect("auto", None)
        self._start = 0
        """Index in the window at which the present mail begins."""
        self._unescape = False
        """Whether something in the present mail may be escaped."""
        self.first: int | None = None
        """With `between`: offset of the first separator; None where there is none."""
        self.next = 0
        """With `between`: offset of the separator behind the last mail, or of the stream's end."""

    def all(self, mbox_format: MboxFormat) -> Iterator[RawMail | Reject]:
        """All mails; what stands before the first separator becomes a reject."""
        window = self._window
        window.grow(0)
        while not window.ended and not window.data.strip(b"\r\n"):
            window.grow(len(window.data))
        self._start = len(window.data) - len(window.data.lstrip(b"\r\n"))
        # The very first line separates also where it has no date.
        line = FROM_LINE.match(window.data, self._start)
        self._dialect = dialect(mbox_format, line)
        if line is not None:
            self._start = line.end()
            yield from self._mails(separator_date(line), None)
            return
        boundary = self._boundary()
        if boundary is not None:
            reject = self._reject(boundary.end, NOT_MAIL)
        else:
            reject, boundary = self._pass_over()
        yield replace(reject, reason=NOT_MAIL if reject.length else EMPTY)
        if boundary.start is not None:
            self._start = boundary.start
            yield from self._mails(boundary.date, None)

    def between(self, known: Dialect, begin: int, end: int, *, exact: bool) -> Iterator[RawMail | Reject]:
        """The mails whose separators begin from one offset on and before another.

        The stream stands CONTEXT_BYTES before `begin`, or at 0. `exact` says that a separator begins
        at `begin`; else the first line from there on that looks like one is taken.
        """
        window = self._window
        window.base = max(begin - CONTEXT_BYTES, 0)
        self._dialect = known
        self._start = window.grow(begin - window.base)
        if exact:
            line = FROM_LINE.match(window.data, self._start)
            assert line is not None
            found = _Boundary(0, self._start, line.end(), separator_date(line))
        elif (sought := self._seek(end)) is not None:
            found = sought
        else:
            return
        self.first = window.base + found.separator
        self._start = found.start or 0
        yield from self._mails(found.date, end)

    def _seek(self, end: int) -> _Boundary | None:
        """The first separator that begins before an offset."""
        window = self._window
        while (found := self._next_separator(self._start)) is None:
            if window.ended or window.base + len(window.data) >= end + MAX_SEPARATOR_BYTES:
                return None
            self._start = window.grow(max(len(window.data) - len(b"From"), self._start))
        return found if window.base + found.separator < end else None

    def _mails(self, date: str | None, end: int | None) -> Iterator[RawMail | Reject]:
        while True:
            boundary = self._boundary()
            if boundary is not None:
                yield self._mail(boundary.end, date)
            else:
                reject, boundary = self._pass_over()
                yield reject
            self.next = self._window.base + boundary.separator
            if boundary.start is None or (end is not None and self.next >= end):
                return
            self._start = boundary.start
            self._unescape = False
            date = boundary.date

    def _boundary(self) -> _Boundary | None:
        """Of the present mail; None where that is larger than the limit."""
        if self._dialect.counted and (counted := self._by_content_length()) is not None:
            return counted
        window = self._window
        search = self._start
        while (found := self._next_separator(search)) is None:
            num_bytes = len(window.data) - self._start
            if window.ended:
                return self._last_boundary()
            if num_bytes > self._limits.max_message_bytes:
                return None
            self._start = window.grow(self._start)
            search = self._start + max(num_bytes - len(b"From"), 0)
        return found

    def _next_separator(self, search: int) -> _Boundary | None:
        data = self._window.data
        for line in FROM_LINE.finditer(data, search):
            at = line.start()
            if data[at - 1] == _GREATER_THAN:
                self._unescape = self._dialect.escaped
            end = _before_blank_line(data, at)
            if end is None or (is_git_patch(line) and not self._dialect.git_patches):
                continue
            date = separator_date(line)
            if date is not None:
                return _Boundary(end, at, line.end(), date)
        return None

    def _last_boundary(self) -> _Boundary:
        """At the end of the stream, without the blank line that may stand there."""
        data = self._window.data
        for ending in (b"\n\n", b"\n\r\n"):
            if data.endswith(ending, self._start):
                return _Boundary(len(data) - len(ending) + 1, len(data), None, None)
        empty = data[self._start :] in (b"\n", b"\r\n")
        return _Boundary(self._start if empty else len(data), len(data), None, None)

    def _by_content_length(self) -> _Boundary | None:
        """The boundary that Content-Length names, where there is one; None where it names none."""
        window = self._window
        body = self._body_begin()
        field = _CONTENT_LENGTH.search(window.data, self._start, body)
        if field is None or field[1] is None:
            return None
        num_bytes = body - self._start + int(field[1])
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
            return _Boundary(end, separator, None, None)
        line = FROM_LINE.match(window.data, separator)
        if line is None or window.data[separator - 1] != _NEWLINE:
            return None
        date = separator_date(line)
        return _Boundary(end, separator, line.end(), date) if date is not None else None

    def _body_begin(self) -> int:
        """Index behind the blank line that ends the header; that of its start where there is none in reach."""
        window = self._window
        search = self._start
        while (match := _BLANK_LINE.search(window.data, search)) is None:
            num_bytes = len(window.data) - self._start
            if window.ended or num_bytes > self._limits.max_header_bytes:
                return self._start
            self._start = window.grow(self._start)
            search = self._start + max(num_bytes - CONTEXT_BYTES, 0)
        return match.end() if match.end() - self._start <= self._limits.max_header_bytes else self._start

    def _pass_over(self) -> tuple[Reject, _Boundary]:
        """Digest a mail that is too large as it goes by: its reject, and the boundary behind it."""
        window = self._window
        offset = window.base + self._start
        digest = hashlib.sha256()
        found: _Boundary | None = None
        while found is None and not window.ended:
            # The last bytes wait: a blank line that turns out to end the mail is no part of it.
            hashed = max(len(window.data) - 8, self._start)
            digest.update(window.data[self._start : hashed])
            self._start = window.grow(hashed)
            found = self._next_separator(self._start + 4)
        boundary = found or self._last_boundary()
        digest.update(window.data[self._start : boundary.end])
        num_bytes = window.base + boundary.end - offset
        return Reject(self._source, offset, num_bytes, digest.hexdigest(), TOO_LARGE), boundary

    def _mail(self, end: int, date: str | None) -> RawMail | Reject:
        window = self._window
        raw = window.data[self._start : end]
        if len(raw) > self._limits.max_message_bytes:
            return self._reject(end, TOO_LARGE)
        if self._unescape:
            raw = _ESCAPED.sub(rb"\1", raw)
        return RawMail(raw, self._source, window.base + self._start, date, self._folder)

    def _reject(self, end: int, reason: str) -> Reject:
        raw = self._window.data[self._start : end]
        return Reject(self._source, self._window.base + self._start, len(raw), hashlib.sha256(raw).hexdigest(), reason)


def _before_blank_line(data: bytes, at: int) -> int | None:
    """Where the blank line begins that ends at an index; None where there is none."""
    if data[at - 1] != _NEWLINE:
        return None
    if data[at - 2] == _NEWLINE:
        return at - 1
    return at - 2 if data[at - 2] == _RETURN and data[at - 3] == _NEWLINE else None


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
    return Splitter(stream, source, limits or Limits(), folder).all(mbox_format)


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
