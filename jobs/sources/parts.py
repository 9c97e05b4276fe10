"""The parts that sources are read in: each can be read by any process, and in order they are the whole.

A large mbox is cut at offsets, before anybody knows where mails begin; what a range takes for the
first separator may stand within a mail (a forwarded mbox, a body with a Content-Length). So a range
also tells where the mails that it read begin and end, and where these do not meet those of the
range before, it is read again from where they should. Nearly always they meet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from gzip import BadGzipFile
from pathlib import Path
from typing import Protocol

from jobs.contracts.errors import InputError, MissingInputError
from jobs.contracts.records import Reject
from jobs.files import input_error, open_input
from jobs.mail.headers import Headers, split_header
from jobs.mail.limits import DAMAGED, NOT_A_FILE, UNFINISHED
from jobs.mail.mbox import CONTEXT_BYTES, ByteStream, Dialect, RawMail, Splitter, read_mbox, read_single
from jobs.sources.folders import MailFile, moved
from jobs.sources.options import ReadOptions

BATCH_BYTES = 1 << 20
RANGE_BYTES = 4 << 20
FILES_AT_ONCE = 200
BYTES_PER_FILE = 16_384
"""What reading a small file costs, in bytes of an mbox."""

Span = tuple[int | None, int]
"""Offsets of the first separator of a range (None: it has none) and of the one behind its last mail."""


class Part(Protocol):
    """Some mails of a source, in order."""

    @property
    def num_bytes(self) -> int:
        """About how much there is to read."""
        ...

    def mails(self, options: ReadOptions) -> Iterator[RawMail | Reject]:
        """The mails, and a reject for what is none."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Mails that have been read already, for only one process can read their source."""

    items: list[RawMail | Reject]
    num_bytes: int

    def mails(self, options: ReadOptions) -> Iterator[RawMail | Reject]:
        """See Part."""
        del options
        return iter(self.items)


def batches(mails: Iterable[RawMail | Reject]) -> Iterator[Batch]:
    """The same mails, about a MiB at a time."""
    items: list[RawMail | Reject] = []
    num_bytes = 0
    for mail in mails:
        items.append(mail)
        num_bytes += 200 + (len(mail.raw) if isinstance(mail, RawMail) else 0)
        if num_bytes >= BATCH_BYTES:
            yield Batch(items, num_bytes)
            items, num_bytes = [], 0
    if items:
        yield Batch(items, num_bytes)


# ---- files of a folder


@dataclass(frozen=True, slots=True)
class Files:
    """Some files of a folder."""

    files: tuple[MailFile, ...]

    @property
    def num_bytes(self) -> int:
        """See Part."""
        return len(self.files) * BYTES_PER_FILE

    def mails(self, options: ReadOptions) -> Iterator[RawMail | Reject]:
        """See Part; InputError where a file cannot be read. A damaged one becomes a reject."""
        for file in self.files:
            if not file.regular:
                yield Reject(file.name, 0, 0, hashlib.sha256(b"").hexdigest(), NOT_A_FILE)
            else:
                yield from _read_file(file, options)


def _read_file(file: MailFile, options: ReadOptions) -> Iterator[RawMail | Reject]:
    try:
        if file.unfinished:
            yield _whole_file(file, UNFINISHED)
        else:
            yield from unless_damaged(_mails_of(file, options), lambda: _whole_file(file, DAMAGED))
    except MissingInputError:
        # It was delivered since the folder was listed, or somebody read, flagged or deleted it.
        if (there := moved(file)) is not None:
            yield from _read_file(there, options)


def _mails_of(file: MailFile, options: ReadOptions) -> Iterator[RawMail | Reject]:
    with open_input(file.path) as stream:
        yield from read_stream(stream, file, options)


def unless_damaged(mails: Iterable[RawMail | Reject], whole: Callable[[], Reject]) -> Iterator[RawMail | Reject]:
    """The mails of one of many files; where its compressed data is damaged, those before that, and the file's reject.

    What cannot be read at all stays an InputError: there may be mail in it.
    """
    try:
        yield from mails
    except InputError as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, BadGzipFile):
            raise
        yield whole()


def _whole_file(file: MailFile, reason: str) -> Reject:
    """The reject of a file as it stands on the disk."""
    try:
        with file.path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
            return Reject(file.name, 0, stream.tell(), digest.hexdigest(), reason)
    except OSError as error:
        raise input_error(file.path, error) from error


# ---- streams

SNIFFED_BYTES = 65_536
_MAIL_FIELDS = (
    b"from", b"to", b"date", b"subject", b"message-id", b"received", b"return-path", b"delivered-to", b"sender",
    b"reply-to", b"cc", b"mime-version", b"content-type", b"references", b"in-reply-to",
)  # fmt: skip


def looks_like_mail(head: bytes) -> bool:
    """Whether a file that begins so is a single mail: a header with at least one field that mails have."""
    headers = Headers(split_header(head.lstrip(b"\r\n"))[0])
    return any(field in headers for field in _MAIL_FIELDS)


class _Sniffed:
    """A stream whose first bytes have been looked at, and are read again."""

    __slots__ = ("_stream", "_unread", "head")

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self.head = self._unread = stream.read(SNIFFED_BYTES)

    def read(self, size: int, /) -> bytes:
        if not self._unread:
            return self._stream.read(size)
        taken, self._unread = self._unread[:size], self._unread[size:]
        return taken + self._stream.read(size - len(taken)) if len(taken) < size else taken

    def readline(self, size: int, /) -> bytes:
        if not self._unread:
            return self._stream.readline(size)
        end = self._unread.find(b"\n", 0, size) + 1 or min(size, len(self._unread))
        taken, self._unread = self._unread[:end], self._unread[end:]
        if taken.endswith(b"\n") or len(taken) == size:
            return taken
        return taken + self._stream.readline(size - len(taken))


def read_stream(stream: ByteStream, file: MailFile, options: ReadOptions) -> Iterator[RawMail | Reject]:
    """The mails of one (decompressed) stream: a single mail where it begins like one, else an mbox."""
    sniffed = _Sniffed(stream)
    if not sniffed.head.startswith(b"From ") and looks_like_mail(sniffed.head):
        date, folder, labels = file.envelope_date, file.folder, file.labels
        yield read_single(sniffed, file.name, options.limits, envelope_date=date, folder=folder, labels=labels)
    else:
        yield from read_mbox(sniffed, file.name, options.limits, mbox_format=options.mbox_format, folder=file.folder)


# ---- ranges of an mbox


@dataclass(slots=True)
class MboxRange:
    """The mails of an mbox file whose separators begin between two offsets."""

    path: Path
    name: str
    dialect: Dialect
    begin: int
    end: int
    exact: bool
    """Whether a separator is known to begin at `begin`."""
    span: Span | None = None
    """Set when the mails have been read."""

    @property
    def num_bytes(self) -> int:
        """See Part."""
        return self.end - self.begin

    def mails(self, options: ReadOptions) -> Iterator[RawMail | Reject]:
        """See Part."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(max(self.begin - CONTEXT_BYTES, 0))
                splitter = Splitter(stream, self.name, options.limits)
                yield from splitter.between(self.dialect, self.begin, self.end, exact=self.exact)
                self.span = (splitter.first, splitter.next)
        except OSError as error:
            raise input_error(self.path, error) from error
