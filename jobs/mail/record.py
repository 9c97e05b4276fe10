"""From the bytes of a mail to its record. Only the header is looked at, and of it only what the record holds."""

from __future__ import annotations

import csv
import hashlib
import re

from jobs.contracts.records import SHORT_DIGEST_CHARS, MailRecord, Reject
from jobs.mail.filters import NO_FILTERS, Filters
from jobs.mail.headers import Headers, iso, parse_date, split_header
from jobs.mail.headers import message_id as parse_message_id
from jobs.mail.limits import EMPTY, Limits
from jobs.mail.mbox import RawMail

_FIRST_FIELD = re.compile(rb"(?!message-id:)[!-9;-~]++:", re.IGNORECASE)
_ID_OR_END = re.compile(rb"\n(?:message-id:(?:[ \t]*+<([!#-;=?-~]++)>[ \t]*+\r?(?=\n[^ \t]))?+|\r?\n)", re.IGNORECASE)
"""The first Message-ID, of the usual form or not; the header's end where there is none before it."""
_LABELS = b"x-gmail-labels"
_LABELS_AS_WRITTEN = b"X-Gmail-Labels:"


def to_record(mail: RawMail, limits: Limits, filters: Filters = NO_FILTERS) -> MailRecord | Reject | str:
    """The record of a mail; or the reject that says why there is none, or the filter that left it out.

    Pure, and raises nothing on any bytes.
    """
    raw = mail.raw
    message_id = _usual_message_id(raw)
    header: bytes | None = None
    if message_id is None or mail.envelope_date is None or filters or _needs_a_look(raw, limits):
        header = split_header(raw)[0]
    sha256 = hashlib.sha256(raw).hexdigest()
    labels = [*mail.labels]
    envelope_date = mail.envelope_date
    if header is not None:
        reason = limits.header_reason(header) if raw and not raw.isspace() else EMPTY
        if reason is not None:
            return Reject(mail.source, mail.offset, len(raw), sha256, reason)
        headers = Headers(header)
        labels += _gmail_labels(headers)
        rule = filters.left_out_by(headers, labels, mail.folder) if filters else None
        if rule is not None:
            return rule
        envelope_date = envelope_date or _delivery_date(headers)
        message_id = message_id or parse_message_id(headers.get(b"message-id"))
    try:
        text, encoding = raw.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        text, encoding = raw.decode("latin-1"), "latin-1"
    return MailRecord(
        message_id or f"sha256:{sha256[:SHORT_DIGEST_CHARS]}",
        text,
        encoding,
        sha256,
        mail.source,
        mail.offset,
        envelope_date,
        mail.folder,
        labels,
    )


def _needs_a_look(raw: bytes, limits: Limits) -> bool:
    """Whether a header may be over a limit (a line of it takes two bytes at least), or hold labels."""
    return len(raw) > min(2 * limits.max_header_lines, limits.max_header_bytes) or _LABELS_AS_WRITTEN in raw


def _usual_message_id(raw: bytes) -> str | None:
    """The Message-ID of a mail that begins with a field and has one of the usual form; None of any other.

    Up to the first blank line `split_header` takes every Message-ID for one of the header's, so the two agree.
    """
    if _FIRST_FIELD.match(raw) is None:
        return None
    match = _ID_OR_END.search(raw)
    return match[1].decode("ascii") if match is not None and match[1] is not None else None


def _delivery_date(headers: Headers) -> str | None:
    """What the topmost Received field says: the mail's own way of telling when it was delivered."""
    received = headers.get(b"received")
    moment = parse_date(received.rpartition(b";")[2]) if received is not None and b";" in received else None
    return iso(moment) if moment is not None else None


def _gmail_labels(headers: Headers) -> list[str]:
    """The labels that Gmail Takeout writes: separated by commas, quoted where they hold one."""
    text = headers.text(_LABELS)
    try:
        row = next(csv.reader([text], skipinitialspace=True), [])
    except csv.Error:  # a field of more than 128 KiB
        row = text.split(",")
    return [label.strip() for label in row if label.strip()]
