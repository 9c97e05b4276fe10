"""Quotes in the text of a mail."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.mail.bodies import Bodies
from jobs.mail.decode import TextOptions, strip_text
from jobs.mail.html import html_to_text
from jobs.mail.mime import part_at
from jobs.mail.quoting import quote_spans, quoted_levels, split_by_quotes

KEEP_ALL = TextOptions(strip_signatures=False, strip_footers=False, strip_disclaimers=False)


def own(text: str, *, forwarded: bool = False) -> str:
    return strip_text(text, KEEP_ALL, forwarded=forwarded)[1]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("no quote", "no quote"),
        ("Hello\n\nOn Mon, 1 Jul 2019, Joe wrote:\n> Hi\n> there", "Hello"),
        ("On Mon, 1 Jul 2019, Joe wrote:\n> Hi\n\nHello\n\n>> deeper\nand more", "Hello\n\nand more"),
        ("Joe writes:\n> Hi\nHello", "Hello"),
        ("Dear Joe,\nOn Mon, 1 Jul 2019 at 10:00, Joe <joe@\nexample.org> wrote:\n\n> Hi\nHello", "Dear Joe,\n\nHello"),
        ("* Joe Doe <joe@example.org> [2019-07-01]:\n> Hi\nHello", "Hello"),
        ("On Mon, Joe wrote:\n\n[...]\n\n> Hi\nHello", "Hello"),
        ("Am 01.07.2019 um 10:00 schrieb Joe Doe:\n> Hallo\nHello", "Hello"),
        ("Le lun. 1 juil. 2019 à 10:00, Joe a écrit :\n> Bonjour\nHello", "Hello"),
        ("01.07.2019, 10:00, \"Joe\" <joe@x>:\n> Hi\nHello", "Hello"),
        ("在 2019年7月1日 10:00，Joe 写道：\n> 你好\nHello", "Hello"),
        ("This is what it prints:\n> output\nHello", "This is what it prints:\n\nHello"),
    ],
)  # fmt: skip
def test_marked_lines_go_with_their_attribution(text: str, left: str) -> None:
    assert own(text) == left


@pytest.mark.parametrize(
    "quote",
    [
        "-----Original Message-----\nFrom: Joe\nTo: Ann\nSubject: x\n\nHi",
        "----- Ursprüngliche Nachricht -----\n\nHallo",
        "From: Joe [mailto:joe@x]\nSent: Monday, July 1, 2019 10:00\nTo: Ann\nSubject: x\n\nHi",
        "________________________________\nFrom: Joe\nSent: Monday\nTo: Ann <ann@x>;\n Bob <bob@x>\nSubject: x\n\nHi",
        "*From:* Joe\n*Date:* Monday\n*To:* Ann\n*Subject:* x\n\nHi",
        "Von: Joe\nGesendet: Montag\nAn: Ann\nBetreff: x\n\nHallo",
        "От: Joe\nОтправлено: понедельник\nКому: Ann\n\nПривет",
        "Date: Mon, 1 Jul 2019\nSubject: x\nFrom: joe@x\nTo: ann@x\n\nHi",
        "On Mon, Jul 1, 2019 at 10:00 AM Joe <joe@x> wrote:\n\nHi\nand more",
    ],
)
def test_unmarked_quotes_run_to_the_end(quote: str) -> None:
    assert own(f"Hello\n\n{quote}") == "Hello"
    assert own(f"> marked before\nHello\n\n{quote}") == "Hello"


@pytest.mark.parametrize(
    "text",
    [
        "From: Joe\nDate: Mon, 1 Jul 2019\nTo: Ann\nSubject: [PATCH] x\n\nFix it.\n---\n a.c | 2 +-",
        "See below.\n\n---------- Forwarded message ---------\nFrom: Joe\nDate: Mon\nTo: Ann\nSubject: x\n\nHi",
        "Look:\n\nBegin forwarded message:\n\nFrom: Joe\nDate: Mon\nTo: Ann\nSubject: x\n\nHi",
        "Series\n\nFrom 0123456789abcdef01 Mon Sep 17 00:00:00 2001\nFrom: Joe\nDate: Mon\nTo: Ann\nSubject: x\n\nFix",
        "Run it:\n>>> import os\n>>> os.getcwd()\n'/'\nDone.",
        "The diff:\n5c5\n< old\n---\n> new\n7a8\n> added\nDone.",
        ">From the beginning, as mbox has it.",
        "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n-- old\n--> old\n+> new\n ->x",
        "It said: On 1 Jul 10:00 nothing wrote: this is text.",
        "From: is a header field.\n\nTo: is another.",
    ],
)
def test_what_is_no_quote_stays(text: str) -> None:
    assert own(text) == text


def test_a_forward_by_its_subject_keeps_the_forwarded_block() -> None:
    text = "FYI\n\nFrom: Joe\nSent: Monday\nTo: Ann\nSubject: x\n\nHi"
    assert own(text, forwarded=True) == text
    assert own(text) == "FYI"


def test_prompts_are_quotes_where_a_lower_level_is_quoted() -> None:
    assert own("> one\n>> two\n>>> three\nHello") == "Hello"


def test_a_mail_that_is_nothing_but_a_quote_has_no_text_of_its_own() -> None:
    assert own("On Mon, Joe wrote:\n> Hi\n> there") == ""


def test_levels_of_quotes() -> None:
    text = (
        "Joe wrote:\n> Hi\n> > Ann's\n>> words\n> there\nHello\n\n> and\n>\tmore >\n\n-----Original Message-----\nold"
    )
    levels = [level.split("\n") for level in quoted_levels(text)]
    assert levels[0] == ["Joe wrote:", "-----Original Message-----", "old"]
    assert levels[1:] == [["> Hi", "> there", "> and", ">\tmore >"], ["> > Ann's", ">> words"]]
    assert quoted_levels("no quote") == []


WORDS = [
    "\n",
    "> ",
    ">",
    "a",
    ":",
    "\n\n",
    "On 1.1.19 10:00 a wrote:",
    "From: x\nTo: y\nSent: z\n",
    "-----Original Message-----",
]


@given(st.lists(st.sampled_from([*WORDS, "-- \n", "---\n", "From: ", "[...]", ">>> ", ">From "])).map("".join))
def test_spans_are_ordered_apart_and_of_whole_lines(text: str) -> None:
    spans = quote_spans(text)
    position = 0
    for start, end in spans:
        assert position <= start < end <= len(text)
        assert start == 0 or text[start - 1] == "\n"
        assert end == len(text) or text[end - 1] == "\n"
        position = end


@given(st.lists(st.sampled_from([*WORDS, "> > b", ">>> c"])).map("".join))
def test_levels_hold_all_that_is_quoted(text: str) -> None:
    lines = [line for quote in split_by_quotes(text)[1] for line in quote.splitlines()]
    assert sorted(line for level in quoted_levels(text) for line in level.splitlines() if line) == sorted(
        filter(None, lines)
    )


@given(
    st.lists(
        st.sampled_from(["word", "+ added", "- removed", "@@ -1 +1 @@", " context", "--- a/x", "+++ b/x", "", "a: b"])
    )
)
def test_text_without_marks_is_kept(lines: list[str]) -> None:
    assert quote_spans("\n".join(lines)) == []


@pytest.mark.parametrize(
    "piece",
    [
        *(">\n", "> a\n\n", "a:\n>\n", ":\n", "On 1.1.2019 10:00 a wrote:\n", "On " + "x" * 195 + "\n", "From: a\n"),
        *(
            "From: a\nTo: b\n\nx\n",
            "\n---",
            "-----Original Message-----\n",
            "[...]\n>\n",
            ">>> \n",
            "\n",
            " ",
            "a:\n\n",
        ),
    ],
)
def test_hostile_text_takes_linear_time(piece: str) -> None:
    begin = time.process_time()
    quote_spans("x\n" + piece * (1_000_000 // len(piece)))
    assert time.process_time() - begin < 2


# ---- talon's replies

TALON_FLOOR = 1.0
"""Share of talon's 21 expected replies that come out, white space aside. (mail-parser-reply: 16 of 21.)"""


def talon_cases(folder: Path) -> list[tuple[str, str, str]]:
    """Name, text with quotes, and expected reply of each of talon's cases."""
    cases = []
    for path in sorted((folder / "standard_replies").glob("*.eml")):
        raw = path.read_bytes()
        text = "\n\n".join(block for block in Bodies().read(part_at(raw, 0, len(raw))) if isinstance(block, str))
        expected = path.with_name(path.stem + "_reply_text")
        cases.append((path.name, text, expected.read_text() if expected.exists() else "Hello"))
    for path in sorted((folder / "html_replies").glob("*.html")):
        cases.append((path.name, html_to_text(path.read_text()), "Hi. I am fine.\n\nThanks,\nAlex"))
    return cases


def test_talons_replies(corpora: Path) -> None:
    cases = talon_cases(corpora / "odd-mail" / "talon-quotes")
    squeezed = [(name, re.sub(r"\s", "", own(text)), re.sub(r"\s", "", expected)) for name, text, expected in cases]
    wrong = [name for name, text, expected in squeezed if text != expected]
    assert len(cases) == 21
    assert 1 - len(wrong) / len(cases) >= TALON_FLOOR, wrong


def test_talons_blocks(corpora: Path) -> None:
    folder = corpora / "odd-mail" / "talon-quotes"
    assert own(html_to_text((folder / "OLK_SRC_BODY_SECTION.html").read_text())) == "Reply"
    assert own(html_to_text((folder / "reply-separated-by-hr.html").read_text())) == "Hi\nthere\nBob"
