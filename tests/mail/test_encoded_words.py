"""Encoded words, and bytes of declared, undeclared and wrongly declared charsets."""

from __future__ import annotations

import codecs
import time
from email.header import Header

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.mail.charsets import codec_name, decode_bytes
from jobs.mail.encoded_words import decode_words, loose_base64


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("=?utf-8?q?a=C3=A4?= b", "a\u00e4 b"),
        ("=?ISO-8859-1?Q?a_b?=", "a b"),
        ("=?iso-8859-1*en?Q?=E9?=", "\u00e9"),
        ("=?utf-8?B?w6TDtg==?=", "\u00e4\u00f6"),
        ("=?utf-8?B?w6TDtg?=", "\u00e4\u00f6"),
        ("=?utf-8?q?=C3?= =?UTF-8?q?=A4?=", "\u00e4"),
        ("=?utf-8?q?a?= \t =?utf-8?q?b?= c", "ab c"),
        ("=?utf-8?q?a?= =?iso-8859-1?q?=E4?=", "a\u00e4"),
        ("a=?utf-8?q?b?=c", "abc"),
        ("=?x-unknown?q?abc?=", "abc"),
        ("=?utf-8?q?broken", "=?utf-8?q?broken"),
        ("=?utf-8?x?other?=", "=?utf-8?x?other?="),
        ("=?gb2312?B?xOO6ww==?=", "\u4f60\u597d"),
        ("=?iso-2022-jp?B?GyRCRnxLXBsoQg==?=", "\u65e5\u672c"),
    ],
)
def test_encoded_words(value: str, text: str) -> None:
    assert decode_words(value) == text
    assert decode_words(value.encode()) == text


def test_raw_bytes_stand_beside_and_inside_encoded_words() -> None:
    assert decode_words(b"\xf6 =?iso-8859-1?Q?Fr\xf6sche?=") == "\u00f6 Fr\u00f6sche"


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=80))
def test_what_the_standard_library_encodes_is_decoded(text: str) -> None:
    encoded = Header(text, "utf-8", maxlinelen=60).encode().replace("\n", "")
    assert decode_words(encoded) == text


@given(st.binary())
def test_any_bytes_are_words_and_base64(data: bytes) -> None:
    assert isinstance(decode_words(data), str)
    assert isinstance(loose_base64(data), bytes)


@pytest.mark.parametrize(
    ("data", "charset", "text", "guessed"),
    [
        (b"abc", None, "abc", False),
        (b"abc", "x-unknown", "abc", False),
        ("\u00e4".encode(), None, "\u00e4", False),
        ("\u00e4".encode(), "us-ascii", "\u00e4", False),
        (b"\xe4", "iso-8859-1", "\u00e4", False),
        (b"\x93a\x94", "ISO-8859-1", "\u201ca\u201d", False),
        (b"\x81", "iso-8859-1", "\x81", False),
        ("\u00e4".encode(), "iso-2022-jp", "\u00e4", True),
        (b"a\xe4 b", None, "a\u00e4 b", True),
        (b"a\xff", "utf-8", "a\ufffd", True),
        (b"\xc4\xe3", "gb2312", "\u4f60", False),
        (b"\x82\xa0", "Shift_JIS", "\u3042", False),
        (b"\xb0\xa1", "ks_c_5601-1987", "\uac00", False),
        (b"\xe1", '"windows-874"', "\u0e41", False),
    ],
)
def test_charsets(data: bytes, charset: str | None, text: str, guessed: bool) -> None:
    assert decode_bytes(data, charset) == (text, guessed)


def test_a_long_undeclared_text_is_detected() -> None:
    text = "Здравствуйте, уважаемые коллеги! Посылаю вам список изменений и жду ваших замечаний. " * 4
    assert decode_bytes(text.encode("koi8-r"), None) == (text, True)
    assert decode_bytes(text.encode("windows-1251"), "unknown-8bit") == (text, True)


@pytest.mark.parametrize(
    "name", ["idna", "punycode", "unicode_escape", "base64", "rot13", "", "a\0b", "x" * 100, "\u00e4"]
)
def test_what_is_no_charset_of_mail_is_unknown(name: str) -> None:
    assert codec_name(name) is None


@given(
    st.binary(max_size=300), st.sampled_from([None, "utf-8", "utf-16", "utf-7", "iso-2022-kr", "hz", "big5", "cp1252"])
)
def test_any_bytes_decode_in_any_charset(data: bytes, charset: str | None) -> None:
    text, _ = decode_bytes(data, charset)
    assert isinstance(text, str)
    assert charset is None or codecs.lookup(charset)


def test_detection_takes_linear_time() -> None:
    begin = time.process_time()
    decode_bytes(bytes(range(128, 256)) * 40_000, None)
    decode_bytes(b"a\xff" * 2_000_000, "punycode")
    assert time.process_time() - begin < 3
