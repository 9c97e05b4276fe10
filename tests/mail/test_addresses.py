"""Address lists, and who wrote a mail."""

from __future__ import annotations

import time
from email.utils import formataddr
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.mail.addresses import addresses, sender
from jobs.mail.headers import Headers


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, []),
        ("", []),
        ("Joe <Joe@Example.org>", [("Joe", "joe@example.org")]),
        ("joe@example.org", [("", "joe@example.org")]),
        ("joe@example.org (Joe Doe)", [("Joe Doe", "joe@example.org")]),
        ('"Doe, Joe" <joe@x>, Ann <ann@x>', [("Doe, Joe", "joe@x"), ("Ann", "ann@x")]),
        ('"a \\"b\\" c" <joe@x>', [('a "b" c', "joe@x")]),
        ("undisclosed-recipients:;", []),
        ("Friends: a@x, B <b@x>;, c@x", [("", "a@x"), ("B", "b@x"), ("", "c@x")]),
        ("<@relay,@other:joe@x>", [("", "joe@x")]),
        ("joe @ example . org", [("", "joe@example.org")]),
        ("=?utf-8?q?J=C3=B6?= <j@x>", [("J\u00f6", "j@x")]),
        ("Joe <joe@x", [("Joe", "joe@x")]),
        ("Joe Doe", [("Joe Doe", "")]),
        ("(only (nested) comment)", [("only nested comment", "")]),
    ],
)
def test_address_lists(value: str | None, found: list[tuple[str, str]]) -> None:
    assert [(item.name, item.address) for item in addresses(value)] == found


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]), min_size=1).filter(
    lambda name: "=?" not in name
)


@given(NAMES)
def test_names_come_back_as_the_standard_library_wrote_them(name: str) -> None:
    found = addresses(formataddr((name, "joe@example.org")))
    assert [(item.name, item.address) for item in found] == [(name, "joe@example.org")]


@given(st.binary(max_size=200))
def test_any_bytes_are_an_address_list(value: bytes) -> None:
    for item in addresses(value):
        assert item.name or item.address
        assert not any(category(character) in ("Cc", "Cs") for character in item.name + item.address)


def author(header: str) -> str:
    return sender(Headers(header.encode()))


def test_the_sender_is_the_address_of_from() -> None:
    assert author("From: Joe Doe <Joe@Example.org>\n") == "joe@example.org"
    assert author("From: a@x, b@x\nSender: c@x\n") == "a@x"
    assert author("From: Nobody\nSender: c@x\n") == "Nobody"
    assert author("Sender: c@x\n") == "c@x"
    assert author("Subject: x\n") == ""


def test_where_a_list_rewrites_from_the_sender_is_the_original_address_or_the_name() -> None:
    rewritten = "From: Joe Doe via Dev <dev@lists.x>\n"
    assert author(rewritten) == "Joe Doe"
    assert author("From: \"'Joe Doe' via Dev\" <dev@lists.x>\n") == "Joe Doe"
    assert author('From: "Joe Doe (via Dev)" <dev@lists.x>\n') == "Joe Doe"
    assert author(rewritten + "X-Original-From: Joe Doe <joe@x>\n") == "joe@x"
    assert author(rewritten + "X-Original-Sender: joe@x\n") == "joe@x"
    assert author(rewritten + "Reply-To: Joe Doe <joe@x>, Dev <dev@lists.x>\n") == "joe@x"
    assert author(rewritten + "Reply-To: Dev <dev@lists.x>\n") == "Joe Doe"


@pytest.mark.parametrize("piece", ["<", "(", '"\\', ",", "a ", " via ", '"(<,', "=?utf-8?q?"])
def test_a_hostile_list_takes_linear_time(piece: str) -> None:
    begin = time.process_time()
    addresses(piece * 300_000)
    author("From: " + piece * 100_000 + "<a@b>\n")
    assert time.process_time() - begin < 2
