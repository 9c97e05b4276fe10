"""Filters: what each kind of rule looks at, and what is counted."""

from __future__ import annotations

import pytest

from jobs.contracts.errors import UsageError
from jobs.mail.filters import NOT_INCLUDED, Filters, parse_rule, rule_text
from jobs.mail.headers import Headers

HEADERS = Headers(
    b"From: =?utf-8?q?Ann_=C3=84?= <Ann@Notifications.Example>\n"
    b"Sender: robot@example.org\n"
    b"To: team@example.org, Bob <bob@example.net>\n"
    b"Cc: carol@example.com\n"
    b"Subject: =?utf-8?q?Out_of_B=C3=BCro?=\n"
    b"List-Id: The RAID list <linux-raid.vger.kernel.org>\n"
    b"Auto-Submitted: auto-replied (vacation)\n"
    b"X-Spam-Flag: NO\n"
    b"X-Spam-Flag: Yes\n"
)
LABELS = ("Inbox", "Work/Important")


@pytest.mark.parametrize(
    "rule",
    [
        "from:*@notifications.example",
        "from:ANN@*",
        "from:robot@example.org",
        "to:bob@example.net",
        "to:carol@*",
        "list:linux-raid.vger.kernel.org",
        "list:*raid*",
        "header:Auto-Submitted",
        "header:auto-submitted=auto-*",
        "header:X-Spam-Flag=yes",
        "header: X-Spam-Flag",
        "label:inbox",
        "label:Work/*",
        "folder:Archive/20??",
        "subject:*büro",
    ],
)
def test_rules_that_match(rule: str) -> None:
    assert parse_rule(rule).matches(HEADERS, LABELS, "Archive/2019")
    assert (
        Filters.parse(exclude=[rule]).left_out_by(HEADERS, LABELS, "Archive/2019") == f"exclude {rule.replace(' ', '')}"
    )
    assert Filters.parse(include=[rule]).left_out_by(HEADERS, LABELS, "Archive/2019") is None


@pytest.mark.parametrize(
    "rule",
    [
        "from:notifications.example",
        "from:team@example.org",
        "to:ann@*",
        "list:raid",
        "header:Precedence",
        "header:X-Spam-Flag=maybe",
        "header:Auto-Submitted=auto-generated",
        "label:work",
        "folder:Archive",
        "subject:büro",
    ],
)
def test_rules_that_do_not_match(rule: str) -> None:
    assert not parse_rule(rule).matches(HEADERS, LABELS, "Archive/2019")
    assert Filters.parse(exclude=[rule]).left_out_by(HEADERS, LABELS, "Archive/2019") is None
    assert Filters.parse(include=[rule]).left_out_by(HEADERS, LABELS, "Archive/2019") == NOT_INCLUDED


@pytest.mark.parametrize("value", [b"no", b" No ", b"no (a person); x=y", b"NO; owner=me"])
def test_a_mail_that_says_it_is_a_persons_is_not_automatic(value: bytes) -> None:
    headers = Headers(b"From: a@example.org\nAuto-Submitted: " + value + b"\n")
    assert not parse_rule("header:Auto-Submitted").matches(headers, (), None)


def test_without_a_folder_or_a_list_nothing_matches() -> None:
    headers = Headers(b"From: a@example.org\n")
    assert not parse_rule("folder:*").matches(headers, (), None)
    assert not parse_rule("list:*").matches(headers, (), None)
    assert not parse_rule("label:*").matches(headers, (), None)


def test_a_list_without_an_id_is_known_by_its_address() -> None:
    headers = Headers(b"List-Post: <mailto:dev@lists.example.org>\n")
    assert parse_rule("list:dev@lists.example.org").matches(headers, (), None)


def test_include_and_exclude_together() -> None:
    filters = Filters.parse(include=["to:team@*", "label:Inbox"], exclude=["header:X-Spam-Flag=yes"])
    assert filters.left_out_by(HEADERS, LABELS) == "exclude header:X-Spam-Flag=yes"
    assert filters.left_out_by(Headers(b"To: team@example.org\n")) is None
    assert filters.left_out_by(Headers(b"To: else@example.org\n")) == NOT_INCLUDED
    assert filters.left_out_by(Headers(b"To: else@example.org\n"), ["Inbox"]) is None


def test_no_rules_are_no_filters() -> None:
    assert not Filters.parse()
    assert Filters.parse().left_out_by(HEADERS) is None


@pytest.mark.parametrize("text", ["", "ann@example.org", "from:", "sender:x", "header", "header:=x", ":x"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a filter"):
        parse_rule(text)


def test_the_form_of_a_cycles_spec() -> None:
    assert rule_text({"header": "Auto-Submitted"}) == "header:Auto-Submitted"
    assert rule_text({"from": "*@x"}) == "from:*@x"
    assert rule_text("label:Spam") == "label:Spam"
    with pytest.raises(UsageError, match="one field"):
        rule_text({"from": "*@x", "to": "y"})
