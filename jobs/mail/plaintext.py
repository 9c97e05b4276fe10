"""Text as everything behind the decoder expects it: LF, no control characters, no odd spaces, no idle blank lines."""

from __future__ import annotations

import re

from jobs.mail.charsets import codec_name, decode_bytes

_CONTROL_BYTES = bytes(set(range(32)) - set(b"\t\n\x0c")) + b"\x7f"
_PAGE_BREAK = bytes.maketrans(b"\x0c", b"\n")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0d-\x1f\x7f]")
_INVISIBLE = re.compile(r"[\x80-\x9f\xad\u200b\u2060\ufeff\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]")
_ODD_SPACES = (("\xa0", " "), ("\u2028", "\n"), ("\u2029", "\n"))
_NOT_ASCII_BASED = ("utf-16", "utf-32", "utf-7", "iso2022", "hz")


def decode_text(data: bytes, charset: str | None, flags: set[str]) -> str:
    """Bytes of a text part as plain text (see `plain`).

    Adds the flags `charset-replaced` where `charset` was missing or wrong and characters were
    guessed or replaced, and `control-characters` where there were any.
    """
    codec = codec_name(charset) if charset else None
    if codec is None and data.startswith((b"\xff\xfe", b"\xfe\xff")):
        codec = charset = "utf-16"
    if codec is not None and codec.startswith(_NOT_ASCII_BASED):
        decoded, replaced = decode_bytes(data, charset)
        controls = _CONTROLS.search(decoded.replace("\r", "")) is not None
        text = plain(decoded)
    else:
        if b"\r" in data:  # some programs write CR CR LF
            data = data.replace(b"\r\r\n", b"\n").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        cleaned = data.translate(_PAGE_BREAK, _CONTROL_BYTES)
        controls = len(cleaned) != len(data)
        text, replaced = decode_bytes(cleaned, charset)
        text = text if text.isascii() else _without_invisible(text)
    if replaced:
        flags.add("charset-replaced")
    if controls:
        flags.add("control-characters")
    return text


def plain(text: str) -> str:
    """Text with LF line ends, without control characters, byte order marks, soft hyphens and zero-width spaces.

    A page break becomes a line break, a no-break space a space.
    """
    if "\r" in text:
        text = text.replace("\r\r\n", "\n").replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROLS.sub("", text.replace("\x0c", "\n"))
    return text if text.isascii() else _without_invisible(text)


def _without_invisible(text: str) -> str:
    text = _INVISIBLE.sub("", text)
    for odd, usual in _ODD_SPACES:
        text = text.replace(odd, usual)
    return text


def tidy(text: str) -> str:
    """Lines without trailing space (the signature separator `-- ` keeps its own), one blank line between paragraphs."""
    if " \n" in text or "\t\n" in text:
        text = "\n".join([line if line == "-- " else line.rstrip() for line in text.split("\n")])
    return collapse(text.rstrip())


def collapse(text: str) -> str:
    """No blank lines at either end, at most one in a row elsewhere."""
    text = text.strip("\n")
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text
