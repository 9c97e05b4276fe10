"""From one raw mail to its decoded form."""

from __future__ import annotations

import base64
import email.message
import email.policy
import hashlib
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.mail.bodies import MAX_DEPTH, MAX_PARTS, MAX_TEXT_BYTES
from jobs.mail.decode import MAX_REFERENCES, DecodedMail, TextOptions, content_digest, decode

HEADER = b"From: Joe Doe <joe@example.org>\nSubject: Hello\nDate: Mon, 1 Jul 2019 10:00:00 +0200\nMessage-ID: <1@x>\n"


def mail(body: bytes | str = b"", header: bytes | str = b"", **options: Any) -> DecodedMail:
    header, body = (part.encode() if isinstance(part, str) else part for part in (header, body))
    return decode(HEADER + header + b"\n" + body, message_id="1@x", **options)


def multipart(kind: str, *parts: str) -> DecodedMail:
    body = "".join(f"--b\n{part}\n" for part in parts)
    return mail(f"{body}--b--\n", f'Content-Type: multipart/{kind}; boundary="b"\n')


PLAIN = "Content-Type: text/plain\n\nplain text"
HTML = "Content-Type: text/html\n\n<p>rich <b>text</b>"
PDF = "Content-Type: application/pdf; name=a.pdf\nContent-Transfer-Encoding: base64\n\nYWJjZGU="


def test_a_plain_mail() -> None:
    body = "Hello.\r\n\r\n\r\n\r\n> quoted\r\nBye.  \r\n-- \r\nJoe\r\n"
    assert mail(body, "References: <a@x>\n\t<b@x>\nIn-Reply-To: <b@x>\n") == DecodedMail(
        message_id="1@x",
        sender="joe@example.org",
        subject="Hello",
        date="2019-07-01T08:00:00Z",
        references=["a@x", "b@x"],
        in_reply_to=["b@x"],
        text="Hello.\n\n> quoted\nBye.",
        text_unquoted="Hello.\n\nBye.",
        content_digest=mail("Hello.\n\n\n\n> quoted\nBye.  \n-- \nJoe").content_digest,
        flags=[],
    )


# ---- dates


def test_a_missing_or_absurd_date_is_the_envelopes_else_none() -> None:
    for date in (b"", b"Date: yesterday\n", b"Date: Thu, 1 Jan 1970 00:00:00 +0000\n"):
        raw = date + b"\ntext"
        found = decode(raw, message_id="x", envelope_date="2019-07-01T08:00:00Z")
        assert (found.date, found.flags) == ("2019-07-01T08:00:00Z", ["date-from-envelope"])
        for envelope in (None, "", "never"):
            found = decode(raw, message_id="x", envelope_date=envelope)
            assert (found.date, found.flags) == (None, ["date-missing"])


# ---- text parts


def test_plain_text_is_preferred_among_versions() -> None:
    assert multipart("alternative", PLAIN, HTML).text == "plain text"
    assert multipart("alternative", HTML, PLAIN).text == "plain text"
    assert multipart("alternative", HTML).text == "rich text"
    assert multipart("alternative", "Content-Type: text/plain\n\n  \n", HTML).text == "rich text"
    stub = "Content-Type: text/plain\n\nYour mail client does not show HTML."
    assert multipart("alternative", stub, HTML).text == "rich text"
    assert (
        multipart("alternative", stub, "Content-Type: text/html\n\n<img>").text
        == "Your mail client does not show HTML."
    )


def test_attachments_of_the_version_not_taken_are_named() -> None:
    rich = f'Content-Type: multipart/mixed; boundary="c"\n\n--c\n{HTML}\n--c\n{PDF}\n--c--\n'
    assert multipart("alternative", PLAIN, rich).text == "plain text\n\n[attachment: a.pdf, application/pdf, 5 bytes]"


def test_inline_parts_follow_one_another_and_the_rest_is_named() -> None:
    patch = 'Content-Type: text/x-patch; name="fix.patch"\nContent-Disposition: inline\n\n--- a\n+++ b'
    attached = "Content-Type: text/plain\nContent-Disposition: attachment; filename*=utf-8''%C3%A4.txt\n\nabc"
    found = multipart("mixed", PLAIN, HTML, patch, PDF, attached)
    assert found.text == (
        "plain text\n\nrich text\n\n[attachment: fix.patch, text/x-patch, 11 bytes]\n\n"
        "[attachment: a.pdf, application/pdf, 5 bytes]\n\n[attachment: \u00e4.txt, text/plain, 3 bytes]"
    )
    assert found.text_unquoted == found.text


def test_an_attached_mail_is_named_by_its_subject() -> None:
    attached = "Content-Type: message/rfc822\n\nSubject: Other\n\nother text"
    assert multipart("mixed", PLAIN, attached).text == "plain text\n\n[attachment: Other, message/rfc822, 26 bytes]"
    assert "Other" in multipart("digest", "\nSubject: Other\n\nother text").text


def test_signatures_and_pictures_of_a_page_are_not_named() -> None:
    signature = "Content-Type: application/pgp-signature; name=signature.asc\n\nxxx"
    assert multipart("signed", PLAIN, signature).text == "plain text"
    picture = "Content-Type: image/png\nContent-ID: <1>\nContent-Transfer-Encoding: base64\n\nYWJj"
    assert multipart("related", HTML, picture).text == "rich text"


def test_each_part_loses_its_own_signature() -> None:
    assert multipart("mixed", PLAIN + "\n-- \nJoe", PLAIN + "\n-- \nAnn").text == "plain text\n\nplain text"


def test_a_page_without_a_content_type_is_html() -> None:
    assert mail("<!DOCTYPE html><p>rich <b>text</b></p>").text == "rich text"
    assert mail("<!DOCTYPE html>", "Content-Type: text/plain\n").text == "<!DOCTYPE html>"


def test_quotes_in_html_and_flowed_text() -> None:
    html = mail("Hi<blockquote>his</blockquote>", "Content-Type: text/html\n")
    assert (html.text, html.text_unquoted) == ("Hi\n\n> his", "Hi")
    flowed = mail("> his \n> words\nmy \nwords", "Content-Type: text/plain; format=flowed\n")
    assert (flowed.text, flowed.text_unquoted) == ("> his words\nmy words", "my words")


def test_options_keep_what_is_stripped_by_default() -> None:
    keep = TextOptions(strip_signatures=False, strip_footers=False, strip_disclaimers=False)
    text = "Hello\n-- \nJoe\n\nCONFIDENTIALITY NOTICE: x"
    assert mail(text, options=keep).text == text
    assert mail(text).text == "Hello"


# ---- charsets and characters


def test_charsets_declared_missing_and_wrong() -> None:
    assert mail("f\u00fcr".encode("latin-1"), "Content-Type: text/plain; charset=iso-8859-1\n").text == "f\u00fcr"
    assert mail("f\u00fcr").flags == []
    wrong = mail(b"f\xfcr", "Content-Type: text/plain; charset=utf-8\n")
    assert (wrong.text, wrong.flags) == ("f\ufffdr", ["charset-replaced"])
    missing = mail(b"f\xfcr")
    assert (missing.text, missing.flags) == ("f\u00fcr", ["charset-replaced"])
    page = mail('<meta charset="koi8-r">\u0434\u0430'.encode("koi8-r"), "Content-Type: text/html\n")
    assert (page.text, page.flags) == ("\u0434\u0430", [])


@pytest.mark.parametrize(
    "charset", ["utf-8", "utf-16", "utf-16le", "utf-32", "utf-7", "iso-2022-jp", "gb18030", "shift_jis"]
)
def test_text_of_any_charset_has_line_feeds_and_no_control_characters(charset: str) -> None:
    body = base64.encodebytes("one\r\ntw\0o \r\n\r\n\u65e5\x1f\u672c".encode(charset))
    header = f"Content-Type: text/plain; charset={charset}\nContent-Transfer-Encoding: base64\n"
    found = mail(body, header)
    assert (found.text, found.flags) == ("one\ntwo\n\n\u65e5\u672c", ["control-characters"])


def test_invisible_characters_go_and_odd_spaces_become_spaces() -> None:
    assert mail("\ufeffa\u200b\u00adb\u00a0c\u2028d\x0ce").text == "ab c\nd\ne"


def test_a_mail_without_text_is_flagged() -> None:
    found = mail("")
    assert (found.text, found.text_unquoted, found.flags) == ("", "", ["no-text"])
    quote = mail("> only\n> quote")
    assert (quote.text, quote.text_unquoted, quote.flags) == ("> only\n> quote", "", [])


def test_a_forwarded_mail_keeps_what_it_forwards() -> None:
    body = "See below.\n\nFrom: Joe\nSent: Monday\nTo: Ann\nSubject: x\n\nHi"
    assert mail(body).text_unquoted == "See below."
    assert decode(b"Subject: Fwd: x\n\n" + body.encode(), message_id="x").text_unquoted == body


# ---- content digest


def test_the_content_digest_is_that_of_four_fields_and_the_body() -> None:
    raw = b"Received: x\r\nFROM: Joe\r\n <joe@x>\r\nSubject:  a\tb\r\nMessage-Id: <1@x>\r\n\r\none\r\ntwo \r\n\r\n"
    expected = hashlib.sha256(b"<1@x>\nJoe <joe@x>\n\na b\none\ntwo").hexdigest()[:32]
    assert content_digest(raw) == expected
    assert decode(raw, message_id="1@x").content_digest == expected


ROUTE = (
    "Received: from a by b; 1 Jul 2019 10:00:00 +0200\r\nDelivered-To: ann@x\r\nX-Spam: no\r\nReturn-Path: <j@x>\r\n"
)


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=200).map(
        lambda text: text.replace("\n ", "\n")
    ),
    st.text(" \t\r\n", max_size=5),
)
def test_copies_that_came_by_different_routes_have_one_content_digest(body: str, end: str) -> None:
    here = HEADER + b"\n" + body.encode()
    there = ROUTE.encode() + here.replace(b"\n", b"\r\n") + end.encode()
    assert content_digest(here) == content_digest(there)


def test_another_body_or_author_is_other_content() -> None:
    digest = content_digest(HEADER + b"\nbody")
    changed = [HEADER + b"\nbody.", HEADER + b"\n body", HEADER.replace(b"joe@", b"ann@") + b"\nbody"]
    changed += [HEADER.replace(b"Hello", b"Bye") + b"\nbody", HEADER.replace(b"<1@", b"<2@") + b"\nbody"]
    digests = {content_digest(raw) for raw in changed}
    assert len({digest, *digests}) == 1 + len(changed)


def test_the_digest_of_a_large_body_is_that_of_its_whole() -> None:
    body = b"0123456789abcdef\r\n" * 200_000
    expected = hashlib.sha256(b"\n\n\n\n" + body.replace(b"\r\n", b"\n").rstrip()).hexdigest()[:32]
    assert content_digest(b"X: y\n\n" + body) == expected
    assert content_digest(b"X: y\n\n" + body + b" " * 10_000) == expected


# ---- against the standard library

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Zl", "Zp", "Co", "Cn"]), max_size=80)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(TEXTS, min_size=1, max_size=4).map("\n".join),
    st.sampled_from(["7bit", "8bit", "quoted-printable", "base64"]),
    TEXTS.map(lambda text: " ".join(text.split())),
)
def test_what_the_standard_library_writes_is_read(body: str, encoding: str, subject: str) -> None:
    message = email.message.EmailMessage(policy=email.policy.SMTP)
    message["From"] = "joe@example.org"
    message["Subject"] = subject
    message.set_content(body, cte=encoding if body.isascii() or encoding != "7bit" else "base64")
    keep = TextOptions(strip_signatures=False, strip_footers=False, strip_disclaimers=False)
    found = decode(message.as_bytes(), message_id="x", options=keep)
    assert found.text.split() == body.split()
    assert found.subject.split() == subject.split()
    assert found.flags == ["date-missing"] if found.text else ["date-missing", "no-text"]


# ---- hostile mail


def nested(depth: int) -> bytes:
    return b"".join(b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (i, i) for i in range(depth))


@pytest.mark.parametrize(
    ("raw", "flag"),
    [
        (nested(MAX_DEPTH + 1) + b"\ntext", "nested-too-deep"),
        (nested(50_000), "nested-too-deep"),
        (b'Content-Type: multipart/mixed; boundary="b"\n\n' + b"--b\n\na\n" * (MAX_PARTS + 1), "too-many-parts"),
        (b'Content-Type: multipart/mixed; boundary="b"\n\n' + b"--b\n\na\n" * 500_000, "too-many-parts"),
        (b"Subject: x\n\n" + b"a" * (MAX_TEXT_BYTES + 1), "text-cut"),
        (b"Content-Type: text/html\n\n" + b"<div>" * 1_000_000, "text-cut"),
        (b"X: " + b"a" * 5_000_000 + b"\n\ntext", "header-cut"),
        (
            b"References: " + b"<a%d@x> " * (MAX_REFERENCES + 1) % tuple(range(MAX_REFERENCES + 1)) + b"\n\n",
            "references-cut",
        ),
        (b"Content-Type: multipart/mixed\n\ntext", "boundary-missing"),
        (b"Content-Type: multipart/mixed; boundary=b\n\ntext", "boundary-missing"),
        (b"Content-Type: text/plain; charset=punycode\n\n" + b"a\xff" * 2_000_000, "charset-replaced"),
    ],
)
def test_limits_leave_a_flag_and_take_little_time(raw: bytes, flag: str) -> None:
    begin = time.process_time()
    found = decode(raw, message_id="x", envelope_date="2019-07-01T08:00:00Z")
    assert time.process_time() - begin < 2
    assert flag in found.flags


def test_a_large_nested_mail_is_copied_at_most_once() -> None:
    raw = nested(10) + b"Content-Type: application/pdf\nContent-Transfer-Encoding: base64\n\n" + b"YWJj" * 4_000_000
    tracemalloc.start()
    try:
        found = decode(raw, message_id="x")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.text == "[attachment: application/pdf, 12000000 bytes]"
    assert peak < len(raw) + (4 << 20)


def test_of_many_references_the_first_and_the_newest_count() -> None:
    ids = [f"{number}@x" for number in range(2 * MAX_REFERENCES)]
    found = mail(header=f"References: {' '.join(f'<{item}>' for item in ids)}\n")
    assert found.references == [ids[0], *ids[1 - MAX_REFERENCES :]]


PIECES = st.sampled_from(
    [
        *(b"From: a@b\n", b"Content-Type: multipart/mixed; boundary=b\n", b"Content-Type: text/html; charset=utf-7\n"),
        *(
            b"Content-Type: message/rfc822\n",
            b"Content-Transfer-Encoding: base64\n",
            b"\n",
            b"\r\n",
            b"--b\n",
            b"--b--\n",
        ),
        *(b"Content-Type: multipart/alternative; boundary=b\n", b"Content-Type: text/plain; format=flowed\n", b"-- \n"),
        *(
            b"> quote\n",
            b"On 1.1.2019 a@b wrote:\n",
            b"<p>",
            b"\xff\xfe",
            b"\0",
            b"+2AA-",
            b"Date: x\n",
            b"Subject: =?x?q?=00?=\n",
        ),
        *(
            b"YWJj",
            b"begin 644 x\n",
            b"Content-Disposition: attachment; filename*0*=x''%ff\n",
            b"-----BEGIN PGP SIGNATURE-----\n",
        ),
    ]
)


@given(st.lists(PIECES | st.binary(max_size=10), max_size=30).map(b"".join))
def test_any_bytes_decode(raw: bytes) -> None:
    found = decode(raw, message_id="x", envelope_date=None)
    for text in (found.sender, found.subject, found.text, found.text_unquoted, *found.references, *found.in_reply_to):
        text.encode()
        assert "\0" not in text
        assert "\r" not in text
    assert found.flags == sorted(set(found.flags))
    assert found == decode(raw, message_id="x", envelope_date=None)
