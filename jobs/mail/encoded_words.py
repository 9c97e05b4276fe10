"""Header values as text: encoded words (RFC 2047) and raw 8-bit text, both as broken as they come."""

from __future__ import annotations

import binascii
import re

from jobs.mail.charsets import decode_bytes

_WORD = re.compile(r"=\?([^?\s]{1,64})\?([bBqQ])\?([^?]*)\?=")
_QP = re.compile(rb"=([0-9A-Fa-f]{2})")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]")


def as_text(value: bytes) -> str:
    """A raw header value as text, encoded words left as they are; 8-bit text is UTF-8, else guessed."""
    return value.decode("ascii") if value.isascii() else decode_bytes(value, None)[0]


def decode_words(value: bytes | str) -> str:
    """A header value as text, its encoded words (RFC 2047) decoded.

    White space between adjacent words is dropped, and words of one charset are joined before they
    are decoded, for a character may be cut in two. Broken words are decoded as far as they go.
    """
    text = as_text(value) if isinstance(value, bytes) else value
    if "=?" not in text:
        return text
    parts: list[str] = []
    pending: list[bytes] = []
    charset, end = "", 0
    for match in _WORD.finditer(text):
        between = text[end : match.start()]
        name = match[1].partition("*")[0].lower()
        if between.strip() or not end or name != charset:
            parts.append(_decoded(pending, charset))
            parts.append(between if between.strip() or not end else "")
            pending.clear()
        pending.append(_word_bytes(match[2], match[3].encode("utf-8", "replace")))
        charset, end = name, match.end()
    return "".join([*parts, _decoded(pending, charset), text[end:]])


def _decoded(words: list[bytes], charset: str) -> str:
    return decode_bytes(b"".join(words), charset)[0] if words else ""


def _word_bytes(encoding: str, data: bytes) -> bytes:
    if encoding in "qQ":
        return _QP.sub(lambda match: bytes.fromhex(match[1].decode()), data.replace(b"_", b" "))
    return loose_base64(data)


def loose_base64(data: bytes) -> bytes:
    """Base64 decoded whatever else stands in it; a cut end is decoded as far as it goes."""
    data = _NOT_BASE64.sub(b"", data)
    if len(data) % 4 == 1:
        data = data[:-1]
    return binascii.a2b_base64(data + b"=" * (-len(data) % 4))
