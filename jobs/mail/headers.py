"""A mail's header on raw bytes: the fields that are asked for, and nothing else, in microseconds.

Tolerant where mail is odd: CRLF, LF and bare CR; a missing blank line before the body; white
space before a field's colon; raw 8-bit text. Nothing here raises on any bytes, and everything
takes time linear in its input.

Sources: RFC 5322 (format, dates, obsolete forms), RFC 5256 (Message-IDs).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_tz

from jobs.mail.encoded_words import as_text, decode_words, one_line

MAX_HEADER_BYTES = 1 << 20
"""What stands behind the first MiB of a header is ignored."""

_FIELD_START = re.compile(rb"(?:>?From [^\n]*\n)?[!-9;-~]++[ \t]*+:")
_HEADER_END = re.compile(rb"\n(?![!-9;-~]++[ \t]*+:|[ \t])")
_KNOWN_FIELD = re.compile(
    rb"^(?:received|return-path|message-id|date|from|to|cc|subject|mime-version|references|in-reply-to"
    rb"|content-type|content-transfer-encoding|sender|list-id)[ \t]*:",
    re.IGNORECASE | re.MULTILINE,
)


def split_header(raw: bytes) -> tuple[bytes, int]:
    """The header of a mail, with line endings as they are, and the offset at which its body begins.

    A blank line ends the header. So does a line that is no header field, unless well-known fields
    follow it before the blank line: then it is a folded line that lost its indentation (but not one
    that begins with `--`: that is a MIME delimiter). A mail that begins with text has an empty
    header, one without a blank line may have an empty body.
    """
    if b"\r" in raw[:1024] and raw.find(b"\n", 0, MAX_HEADER_BYTES) < 0:
        raw = raw.replace(b"\r", b"\n")  # of the same length: offsets hold
    if _FIELD_START.match(raw) is None:
        return b"", _line_break(raw, 0)
    start, limit = 0, -1
    while (match := _HEADER_END.search(raw, start)) is not None:
        end = match.start() + 1
        body = _line_break(raw, end)
        if body > end:
            return raw[:end], body
        limit = limit if limit >= 0 else _blank_line(raw, end)
        field = _KNOWN_FIELD.search(raw, end, limit)
        if field is None or raw.startswith(b"--", end):
            return raw[:end], end
        start = field.start()
    return raw, len(raw)


def _line_break(raw: bytes, position: int) -> int:
    """The offset behind a line break at `position`; `position` itself where there is none."""
    if raw.startswith(b"\n", position):
        return position + 1
    return position + 2 if raw.startswith(b"\r\n", position) else position


def _blank_line(raw: bytes, position: int) -> int:
    """The offset of the next blank line, or how far to look for one."""
    found = [raw.find(blank, position, MAX_HEADER_BYTES) for blank in (b"\n\n", b"\n\r\n")]
    return min((offset for offset in found if offset >= 0), default=MAX_HEADER_BYTES)


_FIELD = re.compile(rb"\n([!-9;-~]++)[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)")


class Headers:
    """The fields of one header, by name.

    Values are unfolded: line breaks are gone, white space at both ends too. Lines that are no
    fields are passed over.
    """

    __slots__ = ("_fields", "_header")

    def __init__(self, header: bytes) -> None:
        self._header = header
        self._fields: dict[bytes, list[bytes]] | None = None

    def get(self, name: bytes) -> bytes | None:
        """The first value of a field; None where the header has none. `name` is in lower case."""
        values = (self._fields if self._fields is not None else self._read()).get(name)
        return _unfolded(values[0]) if values is not None else None

    def get_all(self, name: bytes) -> list[bytes]:
        """All values of a field, in the order of the header. `name` is in lower case."""
        return [_unfolded(value) for value in self._read().get(name, ())]

    def text(self, name: bytes, charset: str | None = None) -> str:
        """The first value of a field as text: words decoded, white space collapsed, controls gone; "" for none.

        The `charset` is that of the mail's body: what raw 8-bit text in its header is most likely in.
        """
        value = self.get(name)
        return "" if value is None else one_line(decode_words(value, charset))

    def __contains__(self, name: bytes) -> bool:
        return name in self._read()

    def _read(self) -> dict[bytes, list[bytes]]:
        if self._fields is None:
            header = b"\n" + self._header[:MAX_HEADER_BYTES]
            if b"\r" in header:
                header = header.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            fields: dict[bytes, list[bytes]] = {}
            for name, value in _FIELD.findall(header):
                fields.setdefault(name.lower(), []).append(value)
            self._fields = fields
        return self._fields


def _unfolded(value: bytes) -> bytes:
    return (value.replace(b"\n", b"") if b"\n" in value else value).strip()


# ---- Message-IDs

_ID = re.compile(r"<([^<>]+)")
_QUOTED_PAIR = re.compile(r"\\(.)")


def message_ids(value: bytes | str | None) -> list[str]:
    """The Message-IDs of a Message-ID, References or In-Reply-To value, in order, without brackets.

    White space, folding and doubled brackets are dropped, and quotes around a local part that needs
    none (RFC 5256). Words without brackets count only where the value has no brackets at all and
    each of them holds an @, so that `Your message of …` refers to nothing. Repeats are dropped.
    """
    if not value:
        return []
    text = _id_text(value) if isinstance(value, bytes) else value
    found = _ID.findall(text)
    if not found:
        found = text.replace(">", " ").replace(",", " ").split()
        if not all("@" in word.strip("@") for word in found):
            return []
    ids = {_normal_id(item): None for item in found}
    ids.pop("", None)
    return list(ids)


def message_id(value: bytes | str | None) -> str | None:
    """The id of a Message-ID value; None where there is none. A value without brackets or @ is taken as it stands."""
    ids = message_ids(value)
    if ids:
        return ids[0]
    text = _id_text(value) if isinstance(value, bytes) else value or ""
    return _normal_id(text.strip("<> \t")) or None


def _id_text(value: bytes) -> str:
    """An id must not depend on guesses: UTF-8, else a character for each byte."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _normal_id(item: str) -> str:
    item = one_line(item).replace(" ", "")
    if '"' in item:
        local, at, domain = item.rpartition("@")
        if len(local) > 2 and local.startswith('"') and local.endswith('"'):
            item = _QUOTED_PAIR.sub(r"\1", local[1:-1]) + at + domain
    return item


# ---- dates

_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, start=1)}
_DATE = re.compile(
    r"(?:[a-z]{3,9}[,.]?\s+)?(\d{1,2})[\s-]([a-z]{3})[a-z]{0,6}\.?[\s-](\d{4})\s+(\d{1,2}):(\d\d)(?::(\d\d))?\s*([+-]\d{4})\b",
    re.IGNORECASE,
)
_ISO_DATE = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T\s]+(\d\d):(\d\d)(?::(\d\d))?(?:[.,]\d+)?\s*(Z|[+-]\d\d:?\d\d)?)?", re.IGNORECASE
)
_DATE_ANYWHERE = re.compile(r"\b(\d{1,2}) ([a-z]{3}) (\d{4})\b(?: (\d{1,2}):(\d\d)(?::(\d\d))?)?", re.IGNORECASE)
_DateFields = tuple[int, int, int, int, int, int, int]
_EARLIEST, _LATEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(2101, 1, 1, tzinfo=UTC)


def parse_date(value: bytes | str | None) -> datetime | None:
    """The moment that a Date value names, in UTC; None where it names none, or an absurd one.

    Absurd is what lies before 1970-01-02 (a clock that was never set) or after the year 2100.
    Takes RFC 5322, its obsolete forms (two-digit years, named zones, comments), ctime's and ISO 8601,
    and in anything else a day, month and year that stand together.
    A zone that is missing, unknown or beyond a day counts as UTC; a leap second as the one before.
    """
    if not value:
        return None
    text = (as_text(value) if isinstance(value, bytes) else value).strip()[:200]
    fields = _date_fields(text)
    if fields is None:
        return None
    year, month, day, hour, minute, second, offset_seconds = fields
    if abs(offset_seconds) >= 86_400:
        offset_seconds = 0
    try:
        moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
        moment -= timedelta(seconds=offset_seconds)
    except (ValueError, OverflowError):
        return None
    return moment if _EARLIEST <= moment < _LATEST else None


def _date_fields(text: str) -> _DateFields | None:
    """Year, month, day, hour, minute, second, and the zone's offset in seconds."""
    return _exact_date(text) or _loose_date(text)


def _exact_date(text: str) -> _DateFields | None:
    if (match := _DATE.match(text)) is not None and (month := _MONTHS.get(match[2].lower())) is not None:
        day, _, year, hour, minute, second, zone = match.groups()
        return int(year), month, int(day), int(hour), int(minute), int(second or 0), _offset_seconds(zone)
    if (match := _ISO_DATE.match(text)) is not None:
        year, number, day, hour, minute, second, zone = match.groups()
        clock = int(hour or 0), int(minute or 0), int(second or 0)
        return int(year), int(number), int(day), *clock, _offset_seconds(zone)
    return None


def _loose_date(text: str) -> _DateFields | None:
    try:
        parsed = parsedate_tz(text)
    except (ValueError, IndexError, TypeError, OverflowError):
        parsed = None
    if parsed is not None:
        return *parsed[:6], parsed[9] or 0
    match = _DATE_ANYWHERE.search(text)
    month = _MONTHS.get(match[2].lower()) if match is not None else None
    if match is None or month is None:
        return None
    return int(match[3]), month, int(match[1]), int(match[4] or 0), int(match[5] or 0), int(match[6] or 0), 0


def _offset_seconds(zone: str | None) -> int:
    if zone is None or zone in "Zz":
        return 0
    seconds = int(zone[1:3]) * 3600 + int(zone[-2:]) * 60
    return -seconds if zone[0] == "-" else seconds


def iso(moment: datetime) -> str:
    """A UTC moment as records write it: `YYYY-MM-DDTHH:MM:SSZ`."""
    return f"{moment.isoformat()[:19]}Z"
