"""HTML mail to text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.mail.html import MAX_HTML_CHARS, declared_charset, html_to_text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("", ""),
        ("just text", "just text"),
        ("<p>one</p><p>two\n  lines</p>", "one\n\ntwo lines"),
        ("a<br>b<br><br>c", "a\nb\n\nc"),
        ("<div>a</div><div>b</div>", "a\nb"),
        ("a <b>bold</b>, <i>c</i>d", "a bold, cd"),
        ("a&amp;b &lt;c&gt; &nbsp;d", "a&b <c> d"),
        ("<ul><li>one<li>two<ol><li>in</ol></ul>x", "* one\n* two\n\n  1. in\n\nx"),
        ("<pre>a\n  b</pre>c", "a\n  b\n\nc"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a b\nc"),
        ("<head><title>t</title><style>x{}</style></head><script>y()</script><body>z</body>", "z"),
        ("<!-- no --><![if x]>yes<![endif]>", "yes"),
        ("<p class=MsoNormal>a</p><p class=MsoNormal>&nbsp;</p><p class=MsoNormal>b</p>", "a\n\nb"),
        ('<?xml version="1.0" encoding="utf-8"?><html>\u00e4</html>', "\u00e4"),
        ("<p>unclosed <b>x", "unclosed x"),
        ('<a href="http://x">link</a>', "link"),
    ],
)
def test_html_becomes_text(html: str, text: str) -> None:
    assert html_to_text(html).strip("\n") == text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("mine<blockquote>his<p>more</blockquote>mine", "mine\n\n> his\n> \n> more\n\nmine"),
        ("<blockquote type=cite>a<blockquote>b</blockquote></blockquote>", "> a\n> \n>> b"),
        ('<blockquote style="border:none;margin:0 0 0 40px">mine</blockquote>', "mine"),
        ('<blockquote type="cite" style="border: none">his</blockquote>', "> his"),
        ('mine<div id="OLK_SRC_BODY_SECTION"><div>his</div></div>', "mine\n> his"),
        ('mine<div class="yahoo_quoted">his</div>mine', "mine\n> his\nmine"),
    ],
)
def test_quoted_blocks_are_marked(html: str, text: str) -> None:
    assert html_to_text(html).strip("\n") == text


def test_the_charset_of_a_page() -> None:
    assert declared_charset(b'<META http-equiv="Content-Type" content="text/html; charset=koi8-r">') == "koi8-r"
    assert declared_charset(b'<meta charset="utf-8">') == "utf-8"
    assert declared_charset(b"<p>charset=x</p>") is None


@given(st.text())
def test_any_text_is_html(html: str) -> None:
    assert isinstance(html_to_text(html), str)


@given(
    st.lists(
        st.sampled_from(["<p>", "</p>", "<blockquote>", "</div>", "<li>", "<pre>", "</pre>", "word ", "<td>", "<ol>"])
    )
)
def test_no_word_is_lost_whatever_is_open(pieces: list[str]) -> None:
    assert html_to_text("".join(pieces)).count("word") == pieces.count("word ")


@pytest.mark.parametrize(
    "piece",
    ["<", "<div>", "<blockquote>", "<table><tr><td>", "<ul><li>", "&", "<a b=c ", "<!--", "<script>", "<pre>\n", "a "],
)
def test_hostile_pages_take_linear_time_and_space(piece: str) -> None:
    begin = time.process_time()
    text = html_to_text(piece * (2_000_000 // len(piece)))
    assert time.process_time() - begin < 2
    assert len(text) <= 4 * MAX_HTML_CHARS
