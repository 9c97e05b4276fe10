"""Folders of mail: Maildirs and their subfolders, and folders of any other files. Every file is listed.

Sources: Maildir by D. J. Bernstein (https://cr.yp.to/proto/maildir.html); Maildir++ for subfolders
and the info flags (https://www.courier-mta.org/maildir.html).
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from jobs.files import input_error
from jobs.mail.headers import iso

INBOX = "INBOX"
"""The folder of what lies in a Maildir itself."""

FLAGS = {"D": "Draft", "F": "Flagged", "P": "Passed", "R": "Replied", "S": "Seen", "T": "Trashed"}
"""Labels for the flags in the name of a Maildir's file."""

_MODIFIED_UTF7 = re.compile(rb"(?:[ -%'-~]|&[A-Za-z0-9+,]*-)*")
_DELIVERED = re.compile(r"(\d{9,10})\.")


@dataclass(frozen=True, slots=True)
class MailFile:
    """One file of a folder, and what its place and name say about the mail in it."""

    path: Path
    name: str
    """Relative to the folder that was named; a Maildir's flags are not part of it, for they change."""
    folder: str | None = None
    labels: tuple[str, ...] = ()
    envelope_date: str | None = None
    unfinished: bool = False
    """In a Maildir's `tmp`: still being delivered."""
    regular: bool = True
    """False for a pipe, a socket, a device: never opened."""


def walk(root: Path) -> Iterator[MailFile]:
    """Every file below a folder, in an order that depends on names alone. Links are followed, loops are not.

    Holds the names of one folder at a time. Raises InputError for a folder that cannot be read.
    """
    return _walk(root, "", frozenset())


def _walk(folder: Path, label: str, above: frozenset[tuple[int, int]]) -> Iterator[MailFile]:
    here, files, folders = _listing(folder)
    if here in above:
        return
    is_maildir = {"cur", "new"} <= set(folders)
    for name in files:
        yield _plain_file(folder / name, label)
    if is_maildir:
        yield from _deliveries(folder, label)
        folders = [name for name in folders if name not in ("cur", "new", "tmp")]
    for name in folders:
        # In a Maildir, `.Lists.raid` is the folder raid in the folder Lists, spelt in modified UTF-7.
        part = _subfolder(name) if is_maildir and name.startswith(".") else readable(name)
        below = _join(label, part)
        yield from _walk(folder / name, below, above | {here})


def _subfolder(name: str) -> str:
    return "/".join(folder_name(os.fsencode(part)) for part in name[1:].split("."))


def folder_name(name: bytes) -> str:
    """A folder's name as IMAP and Maildir++ spell it, in modified UTF-7 (RFC 3501, 5.1.3).

    As it stands where it is none: who makes a Maildir's folder by hand calls it `R&D`.
    """
    from imapclient.imap_utf7 import decode  # takes a while to import

    if _MODIFIED_UTF7.fullmatch(name):
        with suppress(UnicodeError):
            text = str(decode(name))
            text.encode()  # half of a surrogate pair cannot stand in JSON
            return text
    return name.decode("utf-8", "replace")


def _listing(folder: Path) -> tuple[tuple[int, int], list[str], list[str]]:
    """A folder's identity, and the names of its files and of its folders, both sorted."""
    files: list[str] = []
    folders: list[str] = []
    try:
        status = folder.stat()
        with os.scandir(folder) as entries:
            for entry in entries:
                (folders if _is(entry.is_dir, entry.path) else files).append(entry.name)
    except OSError as error:
        raise input_error(folder, error) from error
    return (status.st_dev, status.st_ino), sorted(files), sorted(folders)


def _is(kind: Callable[[], bool], path: Path | str) -> bool:
    """Whether something in a folder is of a kind; a link in a circle, or to a name that is too long, is of none."""
    try:
        return kind()
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            return False
        raise input_error(path, error) from error


def _is_regular(path: Path) -> bool:
    """Also of what is gone since it was listed: who reads it sees where it went."""
    return _is(path.is_file, path) or not os.path.lexists(path)


def _plain_file(path: Path, label: str) -> MailFile:
    regular = _is_regular(path)
    return MailFile(path, _join(label, readable(path.name)), label or None, regular=regular)


def _deliveries(maildir: Path, label: str) -> Iterator[MailFile]:
    """The mails of one Maildir, by the part of their names that stays when they are read or flagged."""
    subs = [sub for sub in ("cur", "new", "tmp") if (maildir / sub).is_dir()]
    found = [(name.partition(":2,")[0], sub, name) for sub in subs for name in _names(maildir / sub)]
    for unique, sub, name in sorted(found):
        info = name.removeprefix(unique).removeprefix(":2,")
        path = maildir / sub / name
        yield MailFile(
            path,
            _join(label, readable(unique)),
            label or INBOX,
            tuple(FLAGS[flag] for flag in sorted(set(info)) if flag in FLAGS),
            _delivery_date(unique),
            unfinished=sub == "tmp",
            regular=_is_regular(path),
        )


def moved(file: MailFile) -> MailFile | None:
    """A Maildir's file under the name that it has now; None where it is gone."""
    unique = file.path.name.partition(":2,")[0]
    for sub in ("cur", "new"):
        folder = file.path.parent.parent / sub
        for name in _names(folder) if folder.is_dir() else ():
            if name.partition(":2,")[0] == unique and (folder / name).is_file():
                return replace(file, path=folder / name, unfinished=False)
    return None


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names alone, for there may be millions
    except OSError as error:
        raise input_error(folder, error) from error


def _delivery_date(unique: str) -> str | None:
    """When a mail was delivered, from the seconds since 1970 that its file's name begins with."""
    match = _DELIVERED.match(unique)
    return iso(datetime.fromtimestamp(int(match[1]), UTC)) if match is not None else None


def _join(label: str, name: str) -> str:
    return f"{label}/{name}" if label else name


def readable(name: str) -> str:
    """A file name that can stand in JSON, also where it is not UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")
