"""Header values as text: encoded words (RFC 2047) and raw 8-bit text, both as broken as they come."""

from __future__ import annotations

import binascii
import re
from unicodedata import category

from jobs.mail.charsets import decode_bytes

_WORD = re.compile(rb"=\?([^?\s]{1,64})\?([bBqQ])\?([^?]*)\?=")
_QP = re.compile(rb"=([0-9A-Fa-f]{2})")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]")


def as_text(value: bytes, charset: str | None = None) -> str:
    """A raw header value as text, encoded words left as they are.

    8-bit text, which no header may hold, is UTF-8 where it can be, else of the `charset` that the
    mail's body is in, else guessed.
    """
    if value.isascii():
        return value.decode("ascii")
    text, guessed = decode_bytes(value, None)
    return decode_bytes(value, charset)[0] if guessed and charset else text


def decode_words(value: bytes | str, charset: str | None = None) -> str:
    """A header value as text, its encoded words (RFC 2047) decoded; raw 8-bit text as `as_text` has it.

    White space between adjacent words is dropped, and words of one charset are joined before they
    are decoded, for a character may be cut in two. Broken words are decoded as far as they go.
    """
    data = value.encode("utf-8", "replace") if isinstance(value, str) else value
    if b"=?" not in data:
        return as_text(data, charset)
    parts: list[str] = []
    pending: list[bytes] = []
    name, end = "", 0
    for match in _WORD.finditer(data):
        between = data[end : match.start()]
        adjacent = bool(end) and not between.strip()
        word_charset = match[1].partition(b"*")[0].lower().decode("ascii", "replace")
        if not adjacent or word_charset != name:
            parts.append(_decoded(pending, name))
            parts.append("" if adjacent else as_text(between, charset))
            pending.clear()
        pending.append(_word_bytes(match[2], match[3]))
        name, end = word_charset, match.end()
    return "".join([*parts, _decoded(pending, name), as_text(data[end:], charset)])


def one_line(text: str) -> str:
    """Text without line breaks, control characters and half surrogates, each run of white space as one space."""
    text = " ".join(text.split())
    return text if text.isprintable() else "".join([c for c in text if category(c) not in ("Cc", "Cs")])


def _decoded(words: list[bytes], charset: str) -> str:
    return decode_bytes(b"".join(words), charset)[0] if words else ""


def _word_bytes(encoding: bytes, data: bytes) -> bytes:
    if encoding in b"qQ":
        return _QP.sub(lambda match: bytes.fromhex(match[1].decode()), data.replace(b"_", b" "))
    return loose_base64(data)


def loose_base64(data: bytes) -> bytes:
    """Base64 up to its padding, whatever else stands in it; a cut end is decoded as far as it goes."""
    data = _NOT_BASE64.sub(b"", data.partition(b"=")[0])
    if len(data) % 4 == 1:
        data = data[:-1]
    return binascii.a2b_base64(data + b"=" * (-len(data) % 4))
