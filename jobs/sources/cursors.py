"""How far each IMAP folder has been read: `{key: {"uidvalidity": …, "uid": …}}`.

The log keeps the cursors for ever, so a mailbox stands there by a digest: no address gets into it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.contracts.errors import InputError
from jobs.contracts.records import short_digest
from jobs.files import read_json

Cursors = dict[str, dict[str, int]]
"""By `cursor_key`: a folder's UIDVALIDITY, and the highest UID that was read."""


def cursor_key(mailbox: str) -> str:
    """What stands for a mailbox, `user@host/FOLDER`: its short digest."""
    return short_digest(mailbox)


def read_cursors(path: Path) -> Cursors:
    """The cursors of a file; InputError where it holds something else."""
    value: Any = read_json(path)
    if not isinstance(value, dict) or not all(_is_cursor(cursor) for cursor in value.values()):
        raise InputError("not a cursor file", where=str(path), hint="name another --cursor, or remove it to start over")
    return value


def _is_cursor(value: Any) -> bool:
    return isinstance(value, dict) and all(type(value.get(name)) is int for name in ("uidvalidity", "uid"))
