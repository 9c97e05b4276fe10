"""Where mail comes from, by the names that a user gives: files, folders, standard input, mailboxes, objects.

    archive.mbox, archive.mbox.gz    mbox in any dialect, or a single mail; also gzip or zstd of it
    folder/                          a Maildir, or a folder of any such files
    -                                standard input
    imaps://user@host/FOLDER         new mail of IMAP folders (`jobs.mail.imap`)
    s3://bucket/key, file:///path    an object of a store, read like a file

What a file is, its first bytes say. In a folder, what is no mail becomes a reject.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from gzip import BadGzipFile
from pathlib import Path
from typing import BinaryIO, Protocol

from jobs.contracts.errors import InputError, MissingInputError, UsageError
from jobs.contracts.records import Reject
from jobs.files import STANDARD, input_error, open_input
from jobs.mail.folders import MailFile, readable, walk
from jobs.mail.headers import Headers, split_header
from jobs.mail.limits import DAMAGED, NOT_A_FILE, UNFINISHED
from jobs.mail.mbox import RawMail, read_mbox, read_single
from jobs.mail.read_options import ReadOptions

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

    def __init__(self, stream: BinaryIO) -> None:
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


def read_stream(stream: BinaryIO, file: MailFile, options: ReadOptions) -> Iterator[RawMail | Reject]:
    """The mails of one (decompressed) stream: a single mail where it begins like one, else an mbox."""
    sniffed = _Sniffed(stream)
    if not sniffed.head.startswith(b"From ") and looks_like_mail(sniffed.head):
        yield read_single(
            sniffed,
            file.name,
            options.limits,
            envelope_date=file.envelope_date,
            folder=file.folder,
            labels=file.labels,
        )
    else:
        yield from read_mbox(sniffed, file.name, options.limits, mbox_format=options.mbox_format, folder=file.folder)


# ---- sources


class Source(Protocol):
    """One source of mail, as the user named it."""

    @property
    def name(self) -> str:
        """What its mails are sorted by, among those of other sources."""
        ...

    @property
    def may_be_empty(self) -> bool:
        """Whether no mail is a fine answer."""
        ...

    def mails(self, options: ReadOptions) -> Iterator[RawMail | Reject]:
        """Its mails in their order, and a reject for what is none."""
        ...


@dataclass(frozen=True, slots=True)
class FileSource:
    """One file, or standard input."""

    path: Path
    may_be_empty: bool = False

    @property
    def name(self) -> str:
        """See Source."""
        return readable(self.path.name)

    def mails(self, options: ReadOptions) -> Iterator[RawMail | Reject]:
        """See Source; InputError where the file cannot be read or its compressed data is damaged."""
        with open_input(self.path) as stream:
            yield from read_stream(stream, MailFile(self.path, self.name), options)


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A Maildir, or a folder of files of any kind."""

    path: Path
    may_be_empty: bool = False

    @property
    def name(self) -> str:
        """See Source."""
        return readable(self.path.name)

    def mails(self, options: ReadOptions) -> Iterator[RawMail | Reject]:
        """See Source; InputError where something in it cannot be read. Damaged files become rejects."""
        for file in walk(self.path):
            if not file.regular:
                yield Reject(file.name, 0, 0, hashlib.sha256(b"").hexdigest(), NOT_A_FILE)
            elif file.unfinished:
                yield _whole_file(file, UNFINISHED)
            else:
                yield from self._read(file, options)

    def _read(self, file: MailFile, options: ReadOptions) -> Iterator[RawMail | Reject]:
        try:
            with open_input(file.path) as stream:
                yield from read_stream(stream, file, options)
        except InputError as error:
            if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, BadGzipFile):
                raise
            yield _whole_file(file, DAMAGED)


def _whole_file(file: MailFile, reason: str) -> Reject:
    """The reject of a file as it stands on the disk."""
    try:
        with file.path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
            return Reject(file.name, 0, stream.tell(), digest.hexdigest(), reason)
    except OSError as error:
        raise input_error(file.path, error) from error


def parse_sources(texts: Iterable[str]) -> list[Source]:
    """The sources that a user named, in the order in which they are read, which the order of the names does not change.

    Raises UsageError for a URL of an unknown kind, MissingInputError for a file that is not there.
    """
    sources = [(parse_source(text), text) for text in set(texts)]
    return [source for source, _ in sorted(sources, key=lambda item: (item[0].name, item[1]))]


def parse_source(text: str) -> Source:
    """The source that one name means; see `parse_sources`."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        path = Path(text)
        if path == STANDARD:
            return FileSource(path)
        if not path.exists():
            raise MissingInputError("no such file or folder", where=text)
        return FolderSource(path) if path.is_dir() else FileSource(path)
    if scheme == "file":
        return parse_source(rest)
    if scheme == "s3":
        from jobs.mail.objects import ObjectSource

        return ObjectSource(text)
    if scheme in ("imap", "imaps"):
        from jobs.mail.imap import ImapSource

        return ImapSource.parse(text)
    raise UsageError(f"no such kind of mail source: {text}", hint="name a file, a folder, -, imaps://… or s3://…")
