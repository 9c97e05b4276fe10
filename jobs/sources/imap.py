"""IMAP folders as a source: the mail that has come since a cursor, and nothing is changed on the server.

Folders are opened read-only (EXAMINE) and bodies fetched by BODY.PEEK, so that no mail is marked
as read. A cursor is a folder's UIDVALIDITY and the highest UID read: UIDs only grow as long as
UIDVALIDITY stays, and where it has changed the folder is read from its start again.

Credentials come from the environment alone: REFRAIN_IMAP_PASSWORD or REFRAIN_IMAP_TOKEN (OAuth 2),
or a file that REFRAIN_IMAP_PASSWORD_FILE or REFRAIN_IMAP_TOKEN_FILE names.

Sources: RFC 3501 (2.3.1.1 for UIDs, 6.3.2 EXAMINE), RFC 4616 (PLAIN), RFC 7628 (OAUTHBEARER), RFC 8314 (TLS).
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from imapclient import IMAPClient
from imapclient.exceptions import IMAPClientError
from imapclient.imap_utf7 import encode
from imapclient.util import to_bytes

from jobs.contracts.errors import AccessError, InputError, MissingInputError, UsageError
from jobs.contracts.records import Reject
from jobs.files import input_error
from jobs.mail.headers import iso
from jobs.mail.limits import TOO_LARGE
from jobs.mail.mbox import BLOCK_BYTES, RawMail
from jobs.sources.cursors import cursor_key
from jobs.sources.folders import folder_name
from jobs.sources.imap_errors import translated
from jobs.sources.options import ReadOptions
from jobs.sources.parts import Batch, batches

BATCH_BYTES = 8 << 20
BATCH_MAILS = 200
MIN_UIDS_SEARCHED, MAX_UIDS_SEARCHED = 1000, 65_536
"""How long a stretch of UIDs is asked after at once; a server's answer is one line of at most 1 MB."""
TIMEOUT_SECONDS = 60.0

_LABELS = {b"\\Answered": "Replied", b"\\Deleted": "Trashed", b"\\Recent": None}
"""IMAP's flags by the names that a Maildir has for them; others are named as they are."""


@dataclass(frozen=True, slots=True)
class ImapAccount:
    """Where a mailbox is, and whose."""

    user: str
    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        port = "" if self.port == _PORTS[True] else f":{self.port}"
        return f"{self.user}@{self.host}{port}"


_PORTS = {True: 993, False: 143}


def parse_url(url: str) -> tuple[ImapAccount, str]:
    """The account and the folder, or pattern of folders, of `imaps://user@host[:port]/FOLDER`.

    Raises UsageError: for a password in the URL, which would be seen in the list of processes; for
    a missing user; for imap:// to any host but this one, for it sends the password in the clear.
    """
    parts = urlsplit(url)
    tls = parts.scheme == "imaps"
    host = parts.hostname or ""
    shown = f"{parts.scheme}://{parts.username or ''}@{host}"
    if parts.password is not None:
        raise UsageError("a password in the URL", where=shown, hint="set REFRAIN_IMAP_PASSWORD_FILE instead")
    if not host or not parts.username:
        raise UsageError(f"not a mailbox: {url}", hint="write imaps://user@host/FOLDER; an @ in the user's name is %40")
    if not tls and not _is_loopback(host):
        raise UsageError("unencrypted IMAP over a network", where=shown, hint="write imaps://")
    try:
        port = parts.port or _PORTS[tls]
    except ValueError as error:
        raise UsageError(f"not a mailbox: {url}: {error}") from error
    return ImapAccount(unquote(parts.username), host, port, tls), unquote(parts.path.removeprefix("/")) or "INBOX"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_secret(name: str) -> str | None:
    """A secret from the environment: `NAME`, or the file that `NAME_FILE` names; None where there is neither."""
    path = os.environ.get(f"{name}_FILE")
    if not path:
        return os.environ.get(name) or None
    try:
        return Path(path).read_text().rstrip("\r\n") or None
    except OSError as error:
        raise AccessError(f"the file that {name}_FILE names cannot be read: {error.strerror}", where=path) from error
    except UnicodeDecodeError as error:
        raise AccessError(f"the file that {name}_FILE names is not text", where=path) from error


@contextmanager
def connect(account: ImapAccount, ca: str | None = None) -> Iterator[IMAPClient]:
    """A session of an account, logged in.

    Errors within it become TransientError (connection lost, or refused for now), AccessError (credentials or
    certificate refused) or InputError (what else the server refuses).
    """
    token = read_secret("REFRAIN_IMAP_TOKEN")
    password = read_secret("REFRAIN_IMAP_PASSWORD")
    if token is None and password is None:
        raise AccessError(
            "no password", where=str(account), hint="set REFRAIN_IMAP_PASSWORD_FILE or REFRAIN_IMAP_PASSWORD"
        )
    with _translated(str(account)):
        context = _tls_context(ca) if account.tls else None
        client = IMAPClient(account.host, account.port, ssl=account.tls, ssl_context=context, timeout=TIMEOUT_SECONDS)
        try:
            client.normalise_times = False
            client.folder_encode = False  # it ends on a name that is no modified UTF-7
            if token is None:
                _log_in(client, account.user, password or "")
            elif client.has_capability("AUTH=OAUTHBEARER"):
                client.oauthbearer_login(account.user, token)
            else:
                client.oauth2_login(account.user, token)
            yield client
        finally:
            _close(client)


def _log_in(client: IMAPClient, user: str, password: str) -> None:
    if f"{user}{password}".isascii():
        client.login(user, password)
    else:  # LOGIN knows ASCII alone, PLAIN is UTF-8 (RFC 4616)
        client.plain_login(user, password)


@contextmanager
def _translated(where: str, **refused: Any) -> Iterator[None]:
    """Errors of the block as `translated` tells them, which takes the same keywords."""
    try:
        yield
    except (IMAPClientError, OSError) as error:
        raise translated(error, where=where, **refused) from error


def _tls_context(ca: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except ssl.SSLError as error:
        raise UsageError("not a file of certificates in PEM form", where=str(ca)) from error
    except OSError as error:
        raise input_error(str(ca), error) from error


def _close(client: IMAPClient) -> None:
    try:
        client.logout()
    except (IMAPClientError, OSError):  # the connection is gone already
        with suppress(IMAPClientError, OSError):
            client.shutdown()


# ---- reading


@dataclass(frozen=True, slots=True)
class ImapSource:
    """The folders of one account that a pattern matches; `*` and `%` as IMAP's LIST takes them."""

    account: ImapAccount
    pattern: str
    may_be_empty: bool = True

    @classmethod
    def parse(cls, url: str) -> ImapSource:
        """The source at a URL; see `parse_url`."""
        return cls(*parse_url(url))

    @property
    def name(self) -> str:
        """See Source."""
        return f"{self.account}/{self.pattern}"

    def parts(self, options: ReadOptions) -> Iterator[Batch]:
        """See Source."""
        return batches(self.mails(options))

    def mails(self, options: ReadOptions) -> Iterator[RawMail | Reject]:
        """The mails after each folder's cursor, by folder and UID; `options.reached` says how far that was."""
        with connect(self.account, options.imap_ca) as client:
            for folder in self._folders(client):
                yield from _Folder(client, self.account, folder, options).mails()

    def _folders(self, client: IMAPClient) -> list[bytes]:
        """The folders as the server spells them, in the order of their names."""
        if not set("*%") & set(self.pattern):
            return [encode(self.pattern)]
        listed = client.list_folders("", encode(self.pattern))
        names = {to_bytes(name) for flags, _, name in listed if not {b"\\Noselect", b"\\NonExistent"} & set(flags)}
        if not names:
            raise MissingInputError(f"no folder matches {self.pattern}", where=str(self.account))
        return sorted(names, key=lambda name: (folder_name(name), name))


class _Folder:
    """One folder of a session."""

    def __init__(self, client: IMAPClient, account: ImapAccount, spelt: bytes, options: ReadOptions) -> None:
        self._client = client
        self._spelt = spelt
        self._folder = folder_name(spelt)
        self._name = f"{account}/{self._folder}"
        self._key = cursor_key(self._name)
        self._options = options

    def mails(self) -> Iterator[RawMail | Reject]:
        """The mails that are new since the cursor, by UID."""
        uidvalidity, last = self._open()
        after = self._cursor(uidvalidity)
        limit = self._options.limits.max_message_bytes
        for found in self._uids(after + 1, last):
            sizes = self._sizes(found)
            for uids in _batches(sizes, limit):
                yield from self._fetch(uids) if sizes[uids[0]] <= limit else [self._too_large(uids[0])]
        self._options.reached[self._key] = {"uidvalidity": uidvalidity, "uid": max(after, last)}

    def _open(self) -> tuple[int, int]:
        """UIDVALIDITY, and the highest UID that may be in use."""
        if not self._spelt.isascii():  # IMAP has no such names, and nothing here would send one
            raise MissingInputError("cannot be opened: the server's name of it is not ASCII", where=self._name)
        with _translated(self._name, refused=MissingInputError, what="cannot be opened"):
            state: dict[bytes, Any] = self._client.select_folder(self._spelt, readonly=True)
        if b"UIDVALIDITY" not in state:
            raise InputError("the server gives no UIDVALIDITY", where=self._name)
        if b"UIDNEXT" in state:
            return state[b"UIDVALIDITY"], state[b"UIDNEXT"] - 1
        return state[b"UIDVALIDITY"], max(self._client.search(["UID", "*"]), default=0)

    def _cursor(self, uidvalidity: int) -> int:
        cursor = self._options.cursors.get(self._key)
        if cursor is None:
            return 0
        if cursor["uidvalidity"] == uidvalidity:
            return cursor["uid"]
        self._options.notes.append(f"{self._name}: UIDVALIDITY changed, the folder was read from its start")
        return 0

    def _uids(self, first: int, last: int) -> Iterator[list[int]]:
        """The UIDs in use between two of them, ascending, a few hundred at a time."""
        width = MIN_UIDS_SEARCHED
        while first <= last:
            end = min(first + width - 1, last)
            found = sorted(uid for uid in self._client.search(["UID", f"{first}:{end}"]) if first <= uid <= end)
            for start in range(0, len(found), BATCH_MAILS):
                yield found[start : start + BATCH_MAILS]
            first = end + 1
            # Where most UIDs are out of use, ever longer stretches are asked after.
            width = min(2 * width, MAX_UIDS_SEARCHED) if len(found) < MIN_UIDS_SEARCHED else MIN_UIDS_SEARCHED

    def _sizes(self, uids: list[int]) -> dict[int, int]:
        answer = self._client.fetch(uids, [b"RFC822.SIZE"])
        return {uid: answer[uid][b"RFC822.SIZE"] for uid in uids if b"RFC822.SIZE" in answer.get(uid, {})}

    def _fetch(self, uids: list[int]) -> Iterator[RawMail | Reject]:
        answer = self._client.fetch(uids, [b"BODY.PEEK[]", b"INTERNALDATE", b"FLAGS"])
        for uid in uids:
            items = answer.pop(uid, None)
            if items is not None and b"BODY[]" in items:  # else it was expunged meanwhile
                date = items.get(b"INTERNALDATE")
                delivered = iso(date.astimezone(UTC)) if isinstance(date, datetime) else None
                labels = _labels(items.get(b"FLAGS", ()))
                yield RawMail(items[b"BODY[]"] or b"", self._name, uid, delivered, self._folder, labels)

    def _too_large(self, uid: int) -> Reject:
        """The reject of a mail over the limit, its digest taken piece by piece."""
        digest = hashlib.sha256()
        num_bytes = 0
        while piece := self._piece(uid, num_bytes):
            digest.update(piece)
            num_bytes += len(piece)
        return Reject(self._name, uid, num_bytes, digest.hexdigest(), TOO_LARGE)

    def _piece(self, uid: int, start: int) -> bytes:
        answer = self._client.fetch([uid], [f"BODY.PEEK[]<{start}.{BLOCK_BYTES}>".encode()])
        piece: bytes | None = answer.get(uid, {}).get(f"BODY[]<{start}>".encode())
        return piece or b""


def _batches(sizes: dict[int, int], limit: int) -> Iterator[list[int]]:
    """UIDs to be fetched at once: few enough for memory; one over the limit stands alone."""
    batch: list[int] = []
    num_bytes = 0
    for uid, size in sizes.items():
        if batch and (size > limit or num_bytes + size > BATCH_BYTES or len(batch) == BATCH_MAILS):
            yield batch
            batch, num_bytes = [], 0
        batch.append(uid)
        num_bytes += size
        if size > limit:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def _labels(flags: Iterable[bytes | int | None]) -> tuple[str, ...]:
    """Labels for IMAP's flags; imapclient takes those that look like a number for one, and NIL for nothing."""
    spelt = (b"NIL" if flag is None else str(flag).encode() if isinstance(flag, int) else flag for flag in flags)
    names = (_LABELS.get(flag, flag.decode("utf-8", "replace").removeprefix("\\")) for flag in spelt)
    return tuple(sorted(name for name in names if name))
