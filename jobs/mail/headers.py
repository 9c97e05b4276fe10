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

from jobs.mail.encoded_words import as_text, decode_words

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
    follow it before the blank line: then it is a folded line that lost its indentation. A mail that
    begins with text has an empty header, one without a blank line may have an empty body.
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
        if field is None:
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


class Headers:
    """The fields of one header, found by name (any case) when they are asked for.

    Values are unfolded: line breaks are gone, white space at both ends too.
    """

    __slots__ = ("_lower", "_raw")

    def __init__(self, header: bytes) -> None:
        header = header[:MAX_HEADER_BYTES]
        if b"\r" in header:
            header = header.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self._raw = b"\n" + header
        self._lower = self._raw.lower()

    def get(self, name: bytes) -> bytes | None:
        """The first value of a field; None where the header has none. `name` is in lower case."""
        return self._find(name, 0)[0]

    def get_all(self, name: bytes) -> list[bytes]:
        """All values of a field, in the order of the header. `name` is in lower case."""
        values: list[bytes] = []
        value, position = self._find(name, 0)
        while value is not None:
            values.append(value)
            value, position = self._find(name, position)
        return values

    def text(self, name: bytes) -> str:
        """The first value of a field as text, encoded words decoded, white space collapsed; "" where there is none."""
        value = self.get(name)
        return "" if value is None else " ".join(decode_words(value).split())

    def __contains__(self, name: bytes) -> bool:
        return self._find(name, 0)[0] is not None

    def _find(self, name: bytes, position: int) -> tuple[bytes | None, int]:
        lower = self._lower
        start = lower.find(b"\n" + name + b":", position)
        start = start + len(name) + 2 if start >= 0 else self._find_spaced(name, position)
        if start < 0:
            return None, start
        end = lower.find(b"\n", start)
        while end >= 0 and lower[end + 1 : end + 2] in (b" ", b"\t"):
            end = lower.find(b"\n", end + 1)
        value = self._raw[start : end if end >= 0 else len(lower)]
        return (value.replace(b"\n", b"") if b"\n" in value else value).strip(), end if end >= 0 else len(lower)

    def _find_spaced(self, name: bytes, position: int) -> int:
        """Where the value begins of a field with white space before its colon (RFC 5322, 4.5); -1 for none."""
        lower = self._lower
        start = position
        while (start := lower.find(b"\n" + name, start)) >= 0:
            colon = start + 1 + len(name)
            while lower[colon : colon + 1] in (b" ", b"\t"):
                colon += 1
            if lower[colon : colon + 1] == b":":
                return colon + 1
            start += 1
        return -1


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
    text = value.decode("utf-8" if not value.isascii() else "ascii", "replace") if isinstance(value, bytes) else value
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
    text = as_text(value) if isinstance(value, bytes) else value or ""
    return _normal_id(text.strip("<> \t")) or None


def _normal_id(item: str) -> str:
    item = "".join(item.split()).replace("\0", "")
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
_EARLIEST, _LATEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(2101, 1, 1, tzinfo=UTC)


def parse_date(value: bytes | str | None) -> datetime | None:
    """The moment that a Date value names, in UTC; None where it names none, or an absurd one.

    Absurd is what lies before 1970-01-02 (a clock that was never set) or after the year 2100.
    Takes RFC 5322, its obsolete forms (two-digit years, named zones, comments), ctime's and ISO 8601.
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


def _date_fields(text: str) -> tuple[int, int, int, int, int, int, int] | None:
    """Year, month, day, hour, minute, second, and the zone's offset in seconds."""
    if (match := _DATE.match(text)) is not None and (month := _MONTHS.get(match[2].lower())) is not None:
        day, _, year, hour, minute, second, zone = match.groups()
        return int(year), month, int(day), int(hour), int(minute), int(second or 0), _offset_seconds(zone)
    if (match := _ISO_DATE.match(text)) is not None:
        year, number, day, hour, minute, second, zone = match.groups()
        clock = int(hour or 0), int(minute or 0), int(second or 0)
        return int(year), int(number), int(day), *clock, _offset_seconds(zone)
    try:
        parsed = parsedate_tz(text)
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
    return (*parsed[:6], parsed[9] or 0) if parsed is not None else None


def _offset_seconds(zone: str | None) -> int:
    if zone is None or zone in "Zz":
        return 0
    seconds = int(zone[1:3]) * 3600 + int(zone[-2:]) * 60
    return -seconds if zone[0] == "-" else seconds


def iso(moment: datetime) -> str:
    """A UTC moment as records write it: `YYYY-MM-DDTHH:MM:SSZ`."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
