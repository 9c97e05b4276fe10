"""Where mail comes from, by the names that a user gives: files, folders, standard input, mailboxes, objects.

    archive.mbox, archive.mbox.gz    mbox in any dialect, or a single mail; also gzip or zstd of it
    folder/                          a Maildir, or a folder of any such files
    -                                standard input
    imaps://user@host/FOLDER         new mail of IMAP folders (`jobs.sources.imap`)
    s3://bucket/key, file:///path    an object of a store, read like a file

What a file is, its first bytes say. In a folder, what is no mail becomes a reject.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from jobs.contracts.errors import MissingInputError, UsageError
from jobs.files import STANDARD, input_error, open_input
from jobs.mail.mbox import MboxFormat, dialect
from jobs.mail.separators import FROM_LINE, MAX_SEPARATOR_BYTES
from jobs.sources.folders import MailFile, readable, walk
from jobs.sources.options import ReadOptions
from jobs.sources.parts import FILES_AT_ONCE, RANGE_BYTES, Batch, Files, MboxRange, Part, batches, read_stream


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

    def parts(self, options: ReadOptions) -> Iterator[Part]:
        """Its mails in their order, in parts; what they raise, reading raises."""
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

    def parts(self, options: ReadOptions) -> Iterator[Part]:
        """See Source: ranges of a large mbox, else what is read here, and InputError where that cannot be."""
        ranges = [] if options.alone else _ranges(self.path, self.name, options.mbox_format)
        yield from ranges or self._batches(options)

    def _batches(self, options: ReadOptions) -> Iterator[Batch]:
        with open_input(self.path) as stream:
            yield from batches(read_stream(stream, MailFile(self.path, self.name), options))


def _ranges(path: Path, name: str, mbox_format: MboxFormat) -> list[MboxRange]:
    """A large uncompressed mbox in ranges; none for any other file."""
    if path == STANDARD:
        return []
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size < 2 * RANGE_BYTES:
            return []
        with path.open("rb") as stream:
            line = FROM_LINE.match(stream.readline(MAX_SEPARATOR_BYTES))
    except OSError as error:
        raise input_error(path, error) from error
    if line is None:
        return []
    known = dialect(mbox_format, line)
    begins = range(0, status.st_size, RANGE_BYTES)
    return [MboxRange(path, name, known, at, min(at + RANGE_BYTES, status.st_size), exact=at == 0) for at in begins]


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A Maildir, or a folder of files of any kind."""

    path: Path
    may_be_empty: bool = False

    @property
    def name(self) -> str:
        """See Source."""
        return readable(self.path.name)

    def parts(self, options: ReadOptions) -> Iterator[Part]:
        """See Source: a few hundred files each."""
        files = (file for file in walk(self.path.resolve()) if not options.is_output(file.path))
        while some := tuple(islice(files, FILES_AT_ONCE)):
            yield Files(some)


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
        return FileSource(path) if path == STANDARD else _path_source(path)
    if scheme == "file":
        path = Path(unquote(rest))
        if not path.is_absolute():
            raise UsageError(f"not an absolute path: {text}", hint="write file:///absolute/path, or the path alone")
        return _path_source(path)
    if scheme == "s3":
        from jobs.sources.objects import ObjectSource

        return ObjectSource.parse(text)
    if scheme in ("imap", "imaps"):
        from jobs.sources.imap import ImapSource

        return ImapSource.parse(text)
    raise UsageError(f"no such kind of mail source: {text}", hint="name a file, a folder, -, imaps://… or s3://…")


def _path_source(path: Path) -> Source:
    if not path.exists():
        raise MissingInputError("no such file or folder", where=str(path))
    return FolderSource(path) if path.is_dir() else FileSource(path)
