"""MIME structure on raw bytes."""

from __future__ import annotations

import base64
import binascii
import email
import email.policy
import quopri

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.mail.mime import parse_parameters, part_at, subparts, undo_transfer_encoding, unflow


@pytest.mark.parametrize(
    ("field", "value", "parameters"),
    [
        (None, "", {}),
        (b"", "", {}),
        (b"Text/Plain", "text/plain", {}),
        (b"text", "text", {}),
        (b"text / plain ; Charset = UTF-8", "text/plain", {"charset": "UTF-8"}),
        (b'multipart/mixed; boundary="a;b=\\"c"; x=y', "multipart/mixed", {"boundary": 'a;b="c', "x": "y"}),
        (b'multipart/mixed boundary="a b"', "multipart/mixed", {"boundary": "a b"}),
        (b"a/b; x=1; x=2", "a/b", {"x": "1"}),
        (b'attachment; filename="open', "attachment", {"filename": "open"}),
        (b'; filename="x.png"', "", {"filename": "x.png"}),
        (b"a/b; name*=utf-8'en'%C3%A4%20b", "a/b", {"name": "\u00e4 b"}),
        (b"a/b; n*1*=%A4; n*0*=utf-8''%C3; n*2=\"c\"", "a/b", {"n": "\u00e4c"}),
        (b'a/b; n*0="a"; n*1="b"', "a/b", {"n": "ab"}),
        (b'a/b; name="=?utf-8?q?=C3=A4?="', "a/b", {"name": "\u00e4"}),
    ],
)
def test_parameters(field: bytes | None, value: str, parameters: dict[str, str]) -> None:
    assert parse_parameters(field) == (value, parameters)


@given(st.binary(max_size=300))
def test_any_bytes_have_parameters(field: bytes) -> None:
    value, parameters = parse_parameters(field)
    assert value == value.lower()
    assert all(name for name in parameters)


def split(body: bytes, boundary: str) -> list[bytes]:
    raw = b"\n" + body
    return [raw[start:end] for start, end in subparts(part_at(raw, 0, len(raw)), boundary)]


def test_parts_lie_between_the_delimiters() -> None:
    assert split(b"preamble\n--b\n\none\n--b  \n\ntwo\n\n--b--\nepilogue", "b") == [b"\none", b"\ntwo\n"]
    assert split(b"--b\r\n\r\none\r\n--b--\r\n", "b") == [b"\r\none"]


def test_a_missing_closing_delimiter_and_a_missing_boundary() -> None:
    assert split(b"--b\n\none\n--b\n\ntwo\n", "b") == [b"\none", b"\ntwo\n"]
    assert split(b"no delimiter here\n", "b") == []
    assert split(b"--b", "b") == [b""]


def test_a_longer_boundary_and_one_within_a_line_delimit_nothing() -> None:
    assert split(b"--b\n\none --b\n--bb\ntwo\n--b--", "b") == [b"\none --b\n--bb\ntwo"]


def test_headers_beyond_the_first_window_are_read() -> None:
    header = b"".join(b"X-%d: %s\n" % (number, b"x" * 100) for number in range(2_000)) + b"Subject: last\n"
    part = part_at(header + b"\nbody", 0, len(header) + 5)
    assert part.headers.get(b"subject") == b"last"
    assert part.raw[part.start : part.end] == b"body"


LINES = st.lists(st.binary(max_size=20).map(lambda line: line.translate(None, b"\r\n")), max_size=5).map(b"\n".join)


@given(st.lists(LINES, min_size=1, max_size=4))
def test_agrees_with_the_standard_library(bodies: list[bytes]) -> None:
    boundary = b"=_boundary_="
    raw = b'Content-Type: multipart/mixed; boundary="=_boundary_="\n\n'
    raw += b"".join(b"--%s\nContent-Type: text/plain\n\n%s\n" % (boundary, body) for body in bodies)
    raw += b"--%s--\n" % boundary
    whole = part_at(raw, 0, len(raw))
    parts = [part_at(raw, *piece) for piece in subparts(whole, "=_boundary_=")]
    assert [raw[part.start : part.end] for part in parts] == bodies
    reference = email.message_from_bytes(raw, policy=email.policy.compat32)
    decoded = [part.get_payload(decode=True) for part in reference.get_payload()]  # type: ignore[union-attr]
    assert [body.splitlines() for body in bodies] == [body.splitlines() for body in decoded]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("body", "encoding", "data"),
    [
        (b"as it is =41", None, b"as it is =41"),
        (b"as it is =41", b"8bit", b"as it is =41"),
        (b"as it is =41", b"text/html", b"as it is =41"),
        (b"=41=\nb=3D =4", b"Quoted-Printable", b"Ab= =4"),
        (b"YWJj\nZGVm\n", b"BASE64", b"abcdef"),
        (b"YWJj\r\nZA==\r\n", b"base64;", b"abcd"),
        (b"YWJjZA", b"base64", b"abcd"),
        (b"YW-Jj", b"base64", b"abc"),
        (b"", b"base64", b""),
        (b"begin 644 x.txt\n#86)C\n`\nend\n", b"x-uuencode", b"abc"),
        (b"begin 644 x.txt\n#86)C!!!\nend\n", b"uuencode", b"abc"),
        (b"not uuencoded", b"x-uuencode", b"not uuencoded"),
    ],
)
def test_transfer_encodings(body: bytes, encoding: bytes | None, data: bytes) -> None:
    assert undo_transfer_encoding(body, encoding) == data


def test_text_that_a_list_added_behind_base64_is_kept_as_text() -> None:
    body = b"YWJj\nZGVm\n____________\ndev mailing list\ndev@lists.example.org\n"
    assert undo_transfer_encoding(body, b"base64") == b"abcdef\n____________\ndev mailing list\ndev@lists.example.org"


@given(st.binary(max_size=500))
def test_transfer_encodings_are_undone(data: bytes) -> None:
    assert undo_transfer_encoding(base64.encodebytes(data), b"base64") == data
    lines_of_one_kind = data.replace(b"\r", b"")  # quoted-printable does not tell one line end from another
    assert undo_transfer_encoding(quopri.encodestring(lines_of_one_kind), b"quoted-printable") == lines_of_one_kind
    lines = b"".join(binascii.b2a_uu(data[start : start + 45]) for start in range(0, len(data), 45))
    assert undo_transfer_encoding(b"begin 644 x\n" + lines + b"`\nend\n", b"x-uuencode") == data


@given(st.binary(), st.sampled_from([b"base64", b"quoted-printable", b"x-uuencode", b"\xff"]))
def test_any_bytes_have_a_body(body: bytes, encoding: bytes) -> None:
    assert isinstance(undo_transfer_encoding(body, encoding), bytes)


def test_flowed_lines_are_joined_by_quote_depth() -> None:
    text = "A line \nthat goes on.\n  stuffed\n>> deep \n>> quote\n> less \nown \n-- \nsig \nend"
    joined = "A line that goes on.\n stuffed\n>> deep quote\n> less \nown \n-- \nsig end"
    assert unflow(text, delete_space=False) == joined
    assert unflow("soft \nbreak", delete_space=True) == "softbreak"


@given(st.text(st.sampled_from("a >-\n")))
def test_flowing_loses_no_words(text: str) -> None:
    joined = unflow(text, delete_space=False)
    assert joined.replace(" ", "").replace(">", "").replace("\n", "") == text.translate(str.maketrans("", "", " >\n"))
