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


_NEWLINE, _RETURN, _GREATER_THAN = b"\n\r>"
_DECLARES_MBOXRD = b"From mboxrd@z "
_ESCAPED = re.compile(rb"^>(>*From )", re.MULTILINE)
_CONTENT_LENGTH = re.compile(rb"\n(?:content-length:[ \t]*(\d{1,12})[ \t]*(?=\r?\n)|\r?\n)", re.IGNORECASE)
_BLANK_LINE = re.compile(rb"\n\r?\n")


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

        The three bytes before it stay: they say whether a blank line precedes it.
        """
        dropped = max(keep - 3, 0)
        kept = self.data[dropped:]
        # Doubling keeps the copies of a mail that grows and grows linear in its size.
        block = self._stream.read(max(BLOCK_BYTES, len(kept)))
        if block and not block.endswith(b"\n"):
            block += self._stream.readline(MAX_SEPARATOR_BYTES)
        self.ended = not block
        self.data = kept + block
        self.base += dropped
        return keep - dropped


_Boundary = tuple[int, int | None, str | None]
"""Where a mail ends, where the next one begins (None: there is none), and the date of the separator between them."""


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
        self._unescape = False
        """Whether something in the present mail may be escaped."""
        self._counted = mbox_format in ("auto", "mboxcl", "mboxcl2")
        """Whether a Content-Length may say where the body ends."""
        self._declared = mbox_format != "auto"
        self._git_patches = False
        """Whether git's patch line separates: in a file that begins with one, not in a mail that quotes one."""

    def __iter__(self) -> Iterator[RawMail | Reject]:
        date, headed = self._begin()
        while True:
            boundary = self._boundary()
            if boundary is None:
                reject, boundary = self._pass_over()
                yield reject if headed else replace(reject, reason=NOT_MAIL)
            elif headed:
                yield self._mail(boundary[0], date)
            elif boundary[0] > self._start or boundary[1] is None:
                yield self._reject(boundary[0], NOT_MAIL if boundary[0] > self._start else EMPTY)
            _, start, date = boundary
            if start is None:
                return
            self._start = start
            self._unescape = False
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
        line = FROM_LINE.match(window.data, self._start)
        if line is None:
            return None, False
        self._start = line.end()
        self._git_patches = is_git_patch(line)
        if not self._declared:
            self._escaped = line[0].startswith(_DECLARES_MBOXRD)
            self._counted = not self._escaped
        return separator_date(line), True

    def _boundary(self) -> _Boundary | None:
        """Of the present mail; None where that is larger than the limit."""
        if self._counted and (counted := self._by_content_length()) is not None:
            return counted
        window = self._window
        search = self._start
        while (found := self._next_separator(search)) is None:
            num_bytes = len(window.data) - self._start
            if window.ended:
                return self._start + _without_blank_line(window.data[self._start :]), None, None
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
                self._unescape = self._escaped
            end = _before_blank_line(data, at)
            if end is None or (is_git_patch(line) and not self._git_patches):
                continue
            date = separator_date(line)
            if date is not None:
                return end, line.end(), date
        return None

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
            return end, None, None
        line = FROM_LINE.match(window.data, separator)
        if line is None or window.data[separator - 1] != _NEWLINE:
            return None
        date = separator_date(line)
        return (end, line.end(), date) if date is not None else None

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
        rest = window.data[self._start :]
        boundary = found or (self._start + _without_blank_line(rest), None, None)
        digest.update(window.data[self._start : boundary[0]])
        num_bytes = window.base + boundary[0] - offset
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
