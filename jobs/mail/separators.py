"""The separator lines of mbox: which lines are some, and what date they name.

Sources: RFC 4155; the variants that mailers write, as public archives hold them.
"""

from __future__ import annotations

import calendar
import re
from functools import lru_cache

from jobs.mail.headers import iso, parse_date

MAX_SEPARATOR_BYTES = 1000
"""A longer line is no separator."""

_DAY_NAME = rb"(?:mon|tue|wed|thu|fri|sat|sun)[a-z]{0,6}"
_MONTH = rb"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
_MONTHS = {name.lower().encode(): number for number, name in enumerate(calendar.month_abbr) if name}
_ZONE = rb"(?:\s+([a-z]{1,5}|[+-]\d{4}))?"
_CTIME = re.compile(
    rb"\s%b,?\s+%b\s+(\d{1,2})\s+(\d{1,2}:\d\d(?::\d\d)?)%b\s+(\d{4})%b(?:\s+remote from \S+)?\s*$"
    % (_DAY_NAME, _MONTH, _ZONE, _ZONE),
    re.IGNORECASE,
)
_RFC5322 = re.compile(rb"\s((?:%b,?\s+)?\d{1,2}[ -]%b[ -]\d{4}\s+\d{1,2}:\d\d.*)$" % (_DAY_NAME, _MONTH), re.IGNORECASE)
FROM_LINE = re.compile(
    rb"From [^\r\n]*+(?:(?<= (?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) ([A-Z][a-z][a-z] [ 0-3]\d)"
    rb" ((?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d) (\d{4}))\r?(?:\n|\Z)|[^\n]*+\n?)"
)
"""The rest of a line from `From ` on. Where it ends in a plain ctime date, as nearly all separators do,
the groups hold month and day, clock, and year. (Several times as fast as bytes.find.)"""
_GIT_PATCH = re.compile(rb"From [0-9a-f]{40} Mon Sep 17 00:00:00 2001\s*$")


def separator_date(found: re.Match[bytes]) -> str | None:
    """The delivery date, UTC in ISO 8601, of a FROM_LINE that is a separator; None where it is none.

    A separator is `From `, anything, and a date that parses, up to the end of the line. Dates are
    ctime's, with or without seconds and with a zone before or behind the year, or RFC 5322's.
    """
    if found.end() - found.start() > MAX_SEPARATOR_BYTES:
        return None
    month_and_day, clock, year = found.groups()
    if year is not None and (day := _day(month_and_day, year)) is not None:
        return f"{day}T{clock.decode()}Z"
    line = found[0]
    match = _CTIME.search(line, 4)
    if match is not None:
        month, day_of_month, clock, zone, year, late_zone = match.groups()
        date = b" ".join((day_of_month, month, year, clock, zone or late_zone or b"+0000"))
    else:
        other = _RFC5322.search(line, 4)
        date = other[1] if other is not None else b""
    moment = parse_date(date)
    return iso(moment) if moment is not None else None


@lru_cache(maxsize=1024)
def _day(month_and_day: bytes, year_digits: bytes) -> str | None:
    """`Jul  1`, `2019` in ISO 8601; None where there is no such day."""
    month = _MONTHS.get(month_and_day[:3].lower(), 0)
    day, year = int(month_and_day[3:]), int(year_digits)
    if not month or not 1970 < year <= 2100 or not 1 <= day <= calendar.monthrange(year, month)[1]:
        return None
    return f"{year}-{month:02}-{day:02}"


def is_git_patch(found: re.Match[bytes]) -> bool:
    """Whether a FROM_LINE is the one that `git format-patch` begins a patch with: always of one date."""
    return found[3] == b"2001" and _GIT_PATCH.match(found[0]) is not None
