"""Records: the raw mail comes back exactly, identities and labels are found, hostile headers are rejected."""

from __future__ import annotations

import hashlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contracts.records import MailRecord, Reject, short_digest
from jobs.mail.filters import Filters
from jobs.mail.headers import Headers, message_id, split_header
from jobs.mail.limits import EMPTY, HEADER_TOO_LARGE, NO_HEADER, TOO_MANY_HEADER_LINES, Limits
from jobs.mail.mbox import RawMail
from jobs.mail.record import to_record

LIMITS = Limits()


def record(raw: bytes, **about: object) -> MailRecord:
    found = to_record(RawMail(raw, "box", **about), LIMITS)  # type: ignore[arg-type]
    assert isinstance(found, MailRecord)
    return found


def reject(raw: bytes, limits: Limits = LIMITS) -> Reject:
    found = to_record(RawMail(raw, "box", 7, "2026-03-01T12:30:00Z"), limits)
    assert isinstance(found, Reject)
    assert (found.source, found.offset, found.length) == ("box", 7, len(raw))
    assert found.sha256 == hashlib.sha256(raw).hexdigest()
    return found


def test_a_record_holds_everything() -> None:
    raw = b"From: a@example.org\r\nMessage-ID: <1@example.org>\r\n\r\nHi.\r\n"
    assert record(raw, offset=12, envelope_date="2026-03-01T12:30:00Z", folder="INBOX", labels=("Seen",)) == MailRecord(
        message_id="1@example.org",
        email_message=raw.decode(),
        encoding="utf-8",
        sha256=hashlib.sha256(raw).hexdigest(),
        source="box",
        offset=12,
        envelope_date="2026-03-01T12:30:00Z",
        folder="INBOX",
        labels=["Seen"],
    )


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"Message-ID: <a@b>\n", "a@b"),
        (b"message-id:<a@b>\r\n", "a@b"),
        (b"MESSAGE-ID : <a@b>\n", "a@b"),
        (b"Message-ID:\n <a@b>\n", "a@b"),
        (b"Message-ID: <<a@b>>\n", "a@b"),
        (b'Message-ID: <"a"@b>\n', "a@b"),
        (b"Message-ID: <a@b>\n\tfolded\n", "a@b"),
        (b"Message-ID: a@b\n", "a@b"),
        (b"Message-ID: <a@b> <c@d>\n", "a@b"),
        (b"Message-Id: <a@b>\nMessage-ID: <c@d>\n", "a@b"),
        (b"X-Message-ID: <c@d>\nMessage-ID: <a@b>\n", "a@b"),
    ],
)
def test_message_ids(header: bytes, expected: str) -> None:
    for raw in (b"Subject: x\n" + header + b"\nMessage-ID: <body@x>\n", header + b"Subject: x\n\nHi.\n"):
        assert record(raw).message_id == expected


@pytest.mark.parametrize("header", [b"Subject: x\n", b"Subject: x\nMessage-ID:\n", b"Subject: x\nMessage-ID: <>\n"])
def test_without_a_message_id_it_is_the_digest(header: bytes) -> None:
    raw = header + b"\nMessage-ID: <body@x>\n"
    assert record(raw).message_id == f"sha256:{short_digest(raw)}"


@pytest.mark.parametrize("raw", [b"Subject: \xff\n\nHi\n", b"Subject: x\n\n\xe4\xf6\n", "Subject: ä\n\n€\n".encode()])
def test_raw_bytes_come_back(raw: bytes) -> None:
    found = record(raw)
    assert found.raw == raw
    assert found.encoding == ("utf-8" if raw.isascii() or b"\xc3" in raw else "latin-1")
    written = MailRecord(**orjson.loads(orjson.dumps(found)))
    assert written.raw == raw


def test_labels_of_gmail_takeout() -> None:
    raw = (
        b"X-GM-THRID: 1\r\nX-Gmail-Labels: =?UTF-8?Q?Inbox,=22Work,_urgent=22,Entw=C3=BCrfe?=\r\n"
        b"Message-ID: <1@x>\r\nSubject: x\r\n\r\nHi.\r\n"
    )
    assert record(raw).labels == ["Inbox", "Work, urgent", "Entwürfe"]
    behind = b"Message-ID: <1@x>\nX-Gmail-Labels: Inbox,\n Trash\n\nX-Gmail-Labels: Body\n"
    assert record(behind, labels=("Seen",), envelope_date="2026-03-01T12:30:00Z").labels == ["Seen", "Inbox", "Trash"]
    assert record(b"Subject: x\n\nX-Gmail-Labels: Body\n").labels == []


def test_labels_without_end() -> None:
    raw = b"X-Gmail-Labels: " + b"x" * 200_000 + b", Spam\nSubject: x\n\nHi.\n"
    assert record(raw).labels[-1] == "Spam"


def test_the_envelope_date_is_the_last_hops_where_nothing_else_tells() -> None:
    received = b"Received: from a by b; Thu, 6 Jun 2013 12:00:00 +0200\n"
    older = b"Received: from c by a; Wed, 5 Jun 2013 12:00:00 +0200\n"
    assert record(received + older + b"\nHi.\n").envelope_date == "2013-06-06T10:00:00Z"
    assert record(received + b"\nHi.\n", envelope_date="2026-03-01T12:30:00Z").envelope_date == "2026-03-01T12:30:00Z"
    assert record(b"Received: from c by a\n\nHi.\n").envelope_date is None
    assert record(b"Received: from c by a; yesterday\n\nHi.\n").envelope_date is None


@pytest.mark.parametrize("raw", [b"", b"\n", b"  \r\n\r\n"])
def test_an_empty_mail(raw: bytes) -> None:
    assert reject(raw).reason == EMPTY


def test_a_mail_without_a_header() -> None:
    assert reject(b"\nJust text.\n").reason == NO_HEADER
    assert reject(b"Just text.\nSubject: x\n").reason == NO_HEADER


def test_a_header_without_end() -> None:
    assert reject(b"Subject: x\n" + b"X: " + b"x" * (2 << 20) + b"\n\nHi.\n").reason == HEADER_TOO_LARGE
    assert reject(b"Message-ID: <a@b>\n" + b"X: y\n" * 20_000 + b"\nHi.\n").reason == TOO_MANY_HEADER_LINES
    assert reject(b"Message-ID: <a@b>\nX: y\nX: y\n\nHi.\n", Limits(max_header_lines=2)).reason == TOO_MANY_HEADER_LINES
    assert reject(b"Message-ID: <a@b>\nX: yyyyyyyyyy\n\n", Limits(max_header_bytes=20)).reason == HEADER_TOO_LARGE
    assert record(b"Message-ID: <a@b>\n\n" + b"\n" * 200_000).message_id == "a@b"


def test_a_filter_says_which_rule_it_was() -> None:
    filters = Filters.parse(exclude=["label:Spam", "from:*@robots.example"])
    ham = RawMail(b"Message-ID: <a@b>\nFrom: a@example.org\n\nHi.\n", "box")
    assert isinstance(to_record(ham, LIMITS, filters), MailRecord)
    assert to_record(ham._replace(labels=("Spam",)), LIMITS, filters) == "exclude label:Spam"
    robot = RawMail(b"Message-ID: <a@b>\nFrom: a@robots.example\n\nHi.\n", "box")
    assert to_record(robot, LIMITS, filters) == "exclude from:*@robots.example"


LINES = st.sampled_from(
    [
        b"Message-ID: <a@b>\n",
        b"message-id:\r\n",
        b" <c@d>\r\n",
        b"Message-ID : <e@f>\n",
        b"Message-ID: g@h",
        b"Subject: x\n",
        b"Received: by x; Thu, 6 Jun 2013 12:00:00 +0200\n",
        b"\n",
        b"\r\n",
        b"\r",
        b"text\n",
        b"From nobody\n",
        b"X-Gmail-Labels: a,b\n",
    ]
)


@given(st.lists(LINES | st.binary(max_size=8), max_size=12).map(b"".join), st.none() | st.just("2026-03-01T12:30:00Z"))
def test_any_bytes_become_a_record_or_a_reject(raw: bytes, date: str | None) -> None:
    found = to_record(RawMail(raw, "box", 0, date), LIMITS)
    if isinstance(found, Reject):
        assert found.reason in (EMPTY, NO_HEADER)
        return
    assert isinstance(found, MailRecord)
    assert found.raw == raw
    # The quick look at usual headers finds what the careful one does.
    careful = message_id(Headers(split_header(raw)[0]).get(b"message-id"))
    assert found.message_id == (careful or f"sha256:{short_digest(raw)}")
    orjson.dumps(found)
