"""The header of a mail on raw bytes."""

from __future__ import annotations

import email
import email.policy
import time
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobs.mail.headers import Headers, iso, message_id, message_ids, parse_date, split_header


@pytest.mark.parametrize(
    ("raw", "header", "body"),
    [
        (b"", b"", b""),
        (b"\nbody", b"", b"body"),
        (b"\r\nbody", b"", b"body"),
        (b"just text\n\nmore", b"", b"just text\n\nmore"),
        (b"Subject: x", b"Subject: x", b""),
        (b"Subject: x\n", b"Subject: x\n", b""),
        (b"Subject: x\n\n", b"Subject: x\n", b""),
        (b"Subject: x\n\nbody\n", b"Subject: x\n", b"body\n"),
        (b"Subject: x\r\n y\r\n\r\nbody\r\n", b"Subject: x\r\n y\r\n", b"body\r\n"),
        (b"Subject: x\n\r\nbody", b"Subject: x\n", b"body"),
        (b"Subject: x\rTo: y\r\rbody\r", b"Subject: x\nTo: y\n", b"body\r"),
        (b"From a@b Mon Jul 1 2019\nSubject: x\n\nbody", b"From a@b Mon Jul 1 2019\nSubject: x\n", b"body"),
        (b">From a@b\nSubject: x\n\nbody", b">From a@b\nSubject: x\n", b"body"),
    ],
)  # fmt: skip
def test_header_and_body_are_split(raw: bytes, header: bytes, body: bytes) -> None:
    found, offset = split_header(raw)
    assert (found, raw[offset:]) == (header, body)


def test_a_missing_blank_line_ends_the_header_at_the_first_line_of_text() -> None:
    raw = b"Subject: x\nThis is text.\nnote: of the body\n\nmore"
    assert split_header(raw) == (b"Subject: x\n", 11)


def test_a_folded_line_that_lost_its_indentation_does_not_end_the_header() -> None:
    raw = b"Subject: a long\nsubject line\nDate: Mon, 1 Jul 2019 10:00:00 +0000\n\nbody"
    header, offset = split_header(raw)
    assert Headers(header).get(b"date") == b"Mon, 1 Jul 2019 10:00:00 +0000"
    assert raw[offset:] == b"body"


def test_a_mime_delimiter_ends_the_header_of_a_part_without_a_blank_line() -> None:
    assert split_header(b"Content-Type: a/b\n--x\nContent-Type: text/plain\n\ntext")[0] == b"Content-Type: a/b\n"


def test_fields_are_found_by_name_in_any_case_and_unfolded() -> None:
    headers = Headers(
        b"SUBJECT: one\r\n two\r\n\tthree\r\nX-Subject: no\r\nTo : spaced\r\nsubject: again\r\nEmpty:\r\n"
    )
    assert headers.get(b"subject") == b"one two\tthree"
    assert headers.get_all(b"subject") == [b"one two\tthree", b"again"]
    assert headers.get(b"to") == b"spaced"
    assert headers.get(b"empty") == b""
    assert headers.get(b"date") is None
    assert headers.get_all(b"date") == []
    assert b"x-subject" in headers
    assert b"received" not in headers


def test_text_is_one_line_of_printable_characters() -> None:
    headers = Headers(b"Subject: =?utf-8?q?a=00_b=0A?=\n  =?utf-8?q?=C3=BC?=   c\n")
    assert headers.text(b"subject") == "a b \u00fc c"
    assert headers.text(b"to") == ""


def test_raw_8_bit_text_is_read_in_the_charset_of_the_body() -> None:
    headers = Headers("Subject: Привет\n".encode("koi8-r"))
    assert headers.text(b"subject", "koi8-r") == "Привет"
    assert Headers("Subject: Привет\n".encode()).text(b"subject", "koi8-r") == "Привет"


NAMES = st.sampled_from(["Subject", "From", "To", "Date", "X-A"])
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)


@given(st.lists(st.tuples(NAMES, VALUES), min_size=1), st.sampled_from(["\n", "\r\n"]), st.binary(max_size=30))
def test_agrees_with_the_standard_library_on_well_formed_headers(
    fields: list[tuple[str, str]], line_end: str, body: bytes
) -> None:
    raw = "".join(f"{name}: {value}{line_end}" for name, value in fields).encode() + line_end.encode() + body
    reference = email.message_from_bytes(raw, policy=email.policy.compat32)
    header, offset = split_header(raw)
    headers = Headers(header)
    assert raw[offset:] == body
    for name in {name for name, _ in fields}:
        expected = [str(value).encode() for value in reference.get_all(name, [])]
        assert headers.get_all(name.lower().encode()) == expected


@given(st.binary())
@example(b"\r")
@example(b"a:\r\n\xff:\n \n")
@example(b"From \n")
def test_any_bytes_have_a_header(raw: bytes) -> None:
    header, offset = split_header(raw)
    assert 0 <= offset <= len(raw)
    assert len(header) <= offset
    headers = Headers(header)
    for name in (b"subject", b"from", b""):
        assert headers.get(name) == (headers.get_all(name) or [None])[0]
        headers.text(name)


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        (None, []),
        (b"", []),
        (b"<a@b>", ["a@b"]),
        (b"<a@b>\n <c@d>\t<a@b>", ["a@b", "c@d"]),
        (b"<<a@b>>", ["a@b"]),
        (b"< a@b\n >", ["a@b"]),
        (b"<a@b><c@d>", ["a@b", "c@d"]),
        (b"<a@b <c@d", ["a@b", "c@d"]),
        (b"(comment) <a@b>", ["a@b"]),
        (b"a@b c@d", ["a@b", "c@d"]),
        (b'Your message of "Mon, 1 Jul 2019"', []),
        (b"Message from joe@example.org of Monday", []),
        (b'<"quoted"@b>', ["quoted@b"]),
        (b'<"a\\"b"@c>', ['a"b@c']),
        (b"<no-at-sign>", ["no-at-sign"]),
        (b"<\xe4@b> <\xf6@b>", ["\u00e4@b", "\u00f6@b"]),
        ("<\u00e4@b>".encode(), ["\u00e4@b"]),
    ],
)
def test_message_ids(value: bytes | None, ids: list[str]) -> None:
    assert message_ids(value) == ids


def test_a_message_id_without_brackets_is_taken_as_it_stands() -> None:
    assert message_id(b"  abc ") == "abc"
    assert message_id(b"<abc>") == "abc"
    assert message_id(b"<>") is None
    assert message_id(None) is None


def at(*fields: int) -> datetime:
    return datetime(*fields, tzinfo=UTC)  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("Tue, 1 Jul 2003 10:52:37 +0200", at(2003, 7, 1, 8, 52, 37)),
        ("1 Jul 2003 10:52 -0330", at(2003, 7, 1, 14, 22)),
        ("Tue, 01 July 2003 10:52:37 +0000 (UTC)", at(2003, 7, 1, 10, 52, 37)),
        ("1 Jul 99 10:52:00 EST", at(1999, 7, 1, 15, 52)),
        ("Mon Jul  1 11:26:48 2019", at(2019, 7, 1, 11, 26, 48)),
        ("Tue,1-Jul-2003 10:52:37 GMT", at(2003, 7, 1, 10, 52, 37)),
        ("2019-07-01T11:26:48Z", at(2019, 7, 1, 11, 26, 48)),
        ("2019-07-01 11:26:48.123+02:00", at(2019, 7, 1, 9, 26, 48)),
        ("2019-07-01", at(2019, 7, 1)),
        ("Fri, 9 Dec 2016 12:00:60 +0000", at(2016, 12, 9, 12, 0, 59)),
        ("Fri, 9 Dec 2016 12:00:00 +9999", at(2016, 12, 9, 12)),
        ("somewhere: 9 Dec 2016 12:00:t", at(2016, 12, 9, 12)),
        ("Sat, 31 Dec 2016 23:30:00 -0100", at(2017, 1, 1, 0, 30)),
    ],
)
def test_dates(value: str, moment: datetime) -> None:
    assert parse_date(value) == moment
    assert parse_date(value.encode()) == moment


@pytest.mark.parametrize(
    "value",
    [
        *(None, "", "yesterday", "31 Feb 2019 00:00:00 +0000", "1 Jul 2019 25:00:00 +0000"),
        *("Thu, 01 Jan 1970 00:00:00 +0000", "1 Jan 1960 00:00:00 +0000", "1 Jan 2101 00:00:00 +0000"),
        *("Tue, 01 Jan 0103 10:00:00 GMT", "1 Jan 9999 23:59:59 -2359", b"\xff\xfe"),
    ],
)
def test_no_date_or_an_absurd_one_is_none(value: str | bytes | None) -> None:
    assert parse_date(value) is None


@given(st.datetimes(datetime(1971, 1, 1), datetime(2100, 12, 30)), st.integers(-14 * 60, 14 * 60))  # noqa: DTZ001
def test_dates_agree_with_the_standard_library(naive: datetime, zone_minutes: int) -> None:
    sign = "-" if zone_minutes < 0 else "+"
    hours, minutes = divmod(abs(zone_minutes), 60)
    value = f"{naive:%a, %d %b %Y %H:%M:%S} {sign}{hours:02}{minutes:02}"
    moment = parse_date(value)
    assert moment == email.utils.parsedate_to_datetime(value)
    assert moment is not None
    assert iso(moment) == f"{moment:%Y-%m-%dT%H:%M:%SZ}"


@given(st.text())
def test_any_text_is_a_date_or_none(value: str) -> None:
    moment = parse_date(value)
    assert moment is None or moment.tzinfo is UTC


HOSTILE = {
    "one field": b"X: " + b"a" * 3_000_000,
    "many fields": b"a:\n" * 1_000_000,
    "no colon": b"abc\n" * 700_000,
    "stray lines": b"junk\nDate: x\n" * 200_000,
    "folds": b"Subject: x" + b"\n x" * 1_000_000,
    "spaces": b"Subject" + b" " * 3_000_000,
    "returns": b"\r" * 3_000_000,
    "brackets": b"References: " + b"<" * 3_000_000,
    "ids": b"References: " + b"<a@b>" * 600_000,
    "words": b"Subject: " + b"=?utf-8?q?a?= " * 200_000,
    "dates": b"Date: " + b"Mon, 1 " * 400_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_takes_linear_time(name: str) -> None:
    begin = time.process_time()
    headers = Headers(split_header(HOSTILE[name])[0])
    headers.text(b"subject")
    message_ids(headers.get(b"references"))
    parse_date(headers.get(b"date"))
    assert time.process_time() - begin < 2
