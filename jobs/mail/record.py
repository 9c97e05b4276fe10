"""From the bytes of a mail to its record. Only the header is looked at, and of it only what the record holds."""

from __future__ import annotations

import csv
import hashlib
import re

from jobs.contracts.records import SHORT_DIGEST_CHARS, MailRecord, Reject
from jobs.mail.filters import NO_FILTERS, Filters
from jobs.mail.headers import Headers, iso, message_id, parse_date, split_header
from jobs.mail.limits import EMPTY, Limits
from jobs.mail.mbox import RawMail

_PLAIN_ID = re.compile(rb"[ \t]*<([!#-;=?-~]+)>[ \t\r]*\n(?![ \t])")
"""What the Message-ID of nearly every mail looks like."""
_FIELD = b"\nmessage-id:"


def to_record(mail: RawMail, limits: Limits, filters: Filters = NO_FILTERS) -> MailRecord | Reject | str:
    """The record of a mail; or the reject that says why there is none, or the filter that left it out.

    Pure, and raises nothing on any bytes.
    """
    raw = mail.raw
    header = split_header(raw)[0]
    reason = limits.header_reason(header) if raw and not raw.isspace() else EMPTY
    sha256 = hashlib.sha256(raw).hexdigest()
    if reason is not None:
        return Reject(mail.source, mail.offset, len(raw), sha256, reason)
    labels = [*mail.labels, *_gmail_labels(header)]
    if filters and (rule := filters.left_out_by(Headers(header), labels, mail.folder)) is not None:
        return rule
    try:
        text, encoding = raw.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        text, encoding = raw.decode("latin-1"), "latin-1"
    return MailRecord(
        _message_id(header) or f"sha256:{sha256[:SHORT_DIGEST_CHARS]}",
        text,
        encoding,
        sha256,
        mail.source,
        mail.offset,
        mail.envelope_date or _delivery_date(header),
        mail.folder,
        labels,
    )


def _message_id(header: bytes) -> str | None:
    lower = header.lower()
    at = lower.find(_FIELD) if not lower.startswith(_FIELD[1:]) else -1
    match = _PLAIN_ID.match(header, at + len(_FIELD)) if at >= 0 else None
    return match[1].decode("ascii") if match is not None else message_id(Headers(header).get(b"message-id"))


def _delivery_date(header: bytes) -> str | None:
    """What the topmost Received field says: the mail's own way of telling when it was delivered."""
    received = Headers(header).get(b"received")
    moment = parse_date(received.rpartition(b";")[2]) if received is not None and b";" in received else None
    return iso(moment) if moment is not None else None


def _gmail_labels(header: bytes) -> list[str]:
    """The labels that Gmail Takeout writes: separated by commas, quoted where they hold one."""
    if b"X-Gmail-Labels:" not in header:
        return []
    text = Headers(header).text(b"x-gmail-labels")
    try:
        row = next(csv.reader([text], skipinitialspace=True), [])
    except csv.Error:
        row = text.split(",")
    return [label.strip() for label in row if label.strip()]
