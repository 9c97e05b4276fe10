"""MIME structure on raw bytes: content types, transfer encodings, the parts of a multipart.

The standard library's `email` is tolerant too, but builds an object for every header of every part
and differs between Python versions; these few functions give the same parts on any of them.
Nothing here raises on any bytes, and everything takes linear time.

Sources: RFC 2045 and 2046, RFC 2183 (disposition), RFC 2231 (parameters), RFC 3676 (format=flowed).
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from jobs.mail.charsets import decode_bytes
from jobs.mail.encoded_words import as_text, decode_words, loose_base64
from jobs.mail.headers import MAX_HEADER_BYTES, Headers, split_header

MAX_PARAMETER_BYTES = 16_384
_TYPE = re.compile(r"\s*([^\s;/=]+)(?:\s*/\s*([^\s;]*))?")
_PARAMETER = re.compile(r'[;\s]\s*+([^\s=;"]+)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"?|([^;]*+))', re.DOTALL)
_QUOTED_PAIR = re.compile(r'\\(["\\])')


class ParameterValue(NamedTuple):
    """The value of a Content-Type or Content-Disposition field."""

    value: str
    """The type itself, in lower case: `text/plain`, `attachment`; "" where the field is missing or broken."""
    parameters: dict[str, str]
    """By name in lower case; RFC 2231's continuations joined and its charsets decoded."""


def parse_parameters(field: bytes | None) -> ParameterValue:
    """Read a field of the form `value; name=value; …`. The result is shared: do not change it."""
    return _parse_parameters(field[:MAX_PARAMETER_BYTES]) if field else _NO_VALUE


_NO_VALUE = ParameterValue("", {})


@lru_cache(maxsize=1024)
def _parse_parameters(field: bytes) -> ParameterValue:
    text = as_text(field)
    match = _TYPE.match(text)
    value = "" if match is None else match[1] if match[2] is None else f"{match[1]}/{match[2]}"
    parameters: dict[str, str] = {}
    for parameter in _PARAMETER.finditer(text, match.end() if match is not None else 0):
        name, quoted, plain = parameter.groups()
        content = _QUOTED_PAIR.sub(r"\1", quoted) if quoted is not None else plain.strip()
        parameters.setdefault(name.lower(), content)
    return ParameterValue(value.lower(), _decoded_parameters(parameters))


def _decoded_parameters(raw: dict[str, str]) -> dict[str, str]:
    """Plain names and values of parameters that RFC 2231 has cut or encoded, or others wrote as encoded words."""
    if not any("*" in name or "=?" in value for name, value in raw.items()):
        return raw
    pieces: dict[str, list[tuple[int, bool, str]]] = {}
    for name, value in raw.items():
        base, _, rest = name.partition("*")
        number = rest.removesuffix("*")
        section = int(number) if number.isascii() and number.isdigit() and len(number) < 5 else 0
        pieces.setdefault(base, []).append((section, name.endswith("*"), value))
    return {base: _joined(sorted(sections)) for base, sections in pieces.items()}


def _joined(sections: list[tuple[int, bool, str]]) -> str:
    if not any(encoded for _, encoded, _ in sections):
        return decode_words("".join(value for _, _, value in sections))
    data, charset = b"", None
    for _, encoded, value in sections:
        rest = value
        if encoded and charset is None:
            charset, _, rest = value.partition("'") if value.count("'") > 1 else ("utf-8", "", value)
            rest = rest.partition("'")[2] if value.count("'") > 1 else rest
        data += unquote_to_bytes(rest) if encoded else rest.encode("utf-8", "replace")
    return decode_bytes(data, charset)[0]


class Part(NamedTuple):
    """One entity, a whole mail or a part of one, as a range of the mail's bytes: nothing is copied."""

    headers: Headers
    raw: bytes
    start: int
    """Where the body begins; its transfer encoding is not yet undone."""
    end: int


_HEADER_WINDOW = 1 << 16


def part_at(raw: bytes, start: int, end: int) -> Part:
    """The entity that fills a range of a mail."""
    for window in (_HEADER_WINDOW, 2 * MAX_HEADER_BYTES):
        header, offset = split_header(raw[start : min(end, start + window)])
        if offset < window:
            break
    return Part(Headers(header), raw, start + offset, end)


def subparts(whole: Part, boundary: str) -> Iterator[tuple[int, int]]:
    """The ranges of a multipart's parts, headers included; none where the boundary never occurs.

    The preamble and what follows the closing delimiter are left out. Where the closing one is
    missing, the last part runs to the end.
    """
    raw, position, limit = whole.raw, whole.start, whole.end
    delimiter = b"--" + boundary.rstrip().encode("utf-8", "replace")
    start = -1
    while (position := raw.find(delimiter, position, limit)) >= 0:
        end = position + len(delimiter)
        closing = raw.startswith(b"--", end, limit)
        after = raw[end : min(end + 200, limit)].lstrip(b" \t")
        if position > whole.start and raw[position - 1] not in b"\r\n":
            position = end
        elif after and after[0] not in b"\r\n" and not closing:
            position = end  # the delimiter of a longer boundary
        else:
            if start >= 0:
                yield start, _without_last_break(raw, start, position)
            if closing:
                return
            start = position = _next_line(raw, end, limit)
    if start >= 0:
        yield start, limit


def _without_last_break(raw: bytes, start: int, end: int) -> int:
    if end > start and raw[end - 1] == 0x0A:
        end -= 1
    if end > start and raw[end - 1] == 0x0D:
        end -= 1
    return end


def _next_line(raw: bytes, position: int, limit: int) -> int:
    for line_break in (b"\n", b"\r"):
        found = raw.find(line_break, position, limit)
        if found >= 0:
            return found + 1
    return limit


# ---- transfer encodings

_BASE64_LINES = re.compile(rb"(?:[ \t]*+[A-Za-z0-9+/]*+={0,2}[ \t]*+\r?\n|\r)*+(?:[A-Za-z0-9+/]++={0,2}\s*\Z)?")
_UU_BEGIN = re.compile(rb"^begin [0-7]{3,4} [^\r\n]*\r?\n", re.MULTILINE)


def undo_transfer_encoding(body: bytes, encoding: bytes | None) -> bytes:
    """The bytes of a body; what is damaged is decoded as far as it goes, what is unknown left as it is.

    Text behind the end of base64, as list software adds it, is kept as text.
    """
    name = encoding.strip().lower() if encoding else b""
    if name in (b"", b"7bit", b"8bit", b"binary"):
        return body
    if name.startswith(b"quoted-printable"):
        return binascii.a2b_qp(body)
    if name.startswith(b"base64"):
        return _from_base64(body)
    if name in (b"x-uuencode", b"uuencode", b"x-uue", b"uue"):
        return _from_uuencode(body)
    return body


def _from_base64(body: bytes) -> bytes:
    match = _BASE64_LINES.match(body)
    end = match.end() if match is not None else 0
    if not body[:end].strip():
        return loose_base64(body)
    rest = body[end:].strip()
    try:
        data = binascii.a2b_base64(body[:end])
    except binascii.Error:
        data = loose_base64(body[:end])
    return data + b"\n" + rest if rest and b"\n" in rest else data


def _from_uuencode(body: bytes) -> bytes:
    begin = _UU_BEGIN.search(body)
    if begin is None:
        return body
    decoded: list[bytes] = []
    for line in body[begin.end() :].splitlines():
        if line.strip() in (b"end", b"`"):
            break
        try:
            decoded.append(binascii.a2b_uu(line))
        except binascii.Error:
            length = (((line[0] - 32) & 63) * 4 + 5) // 3 if line else 0
            try:
                decoded.append(binascii.a2b_uu(line[:length]))
            except binascii.Error:
                continue
    return b"".join(decoded)


# ---- format=flowed


def unflow(text: str, *, delete_space: bool) -> str:
    """Join the soft-broken lines of format=flowed text, each quote depth for itself (RFC 3676, 4).

    Space stuffing is undone; quote marks stay, as `>` by depth and a space. The signature
    separator `-- ` is a line of its own.
    """
    lines: list[str] = []
    paragraph: list[str] = []
    depth = 0
    for raw in text.split("\n"):
        if not paragraph and not raw.startswith((">", " ")) and not raw.endswith(" "):
            lines.append(raw)
            continue
        content = raw.lstrip(">")
        line_depth = len(raw) - len(content)
        content = content.removeprefix(" ")
        if paragraph and (line_depth != depth or content == "-- "):
            lines.append(_quoted_line(depth, paragraph))
            paragraph = []
        depth = line_depth
        soft = content.endswith(" ") and content != "-- "
        paragraph.append(content[:-1] if soft and delete_space else content)
        if not soft:
            lines.append(_quoted_line(depth, paragraph))
            paragraph = []
    if paragraph:
        lines.append(_quoted_line(depth, paragraph))
    return "\n".join(lines)


def _quoted_line(depth: int, paragraph: list[str]) -> str:
    content = "".join(paragraph)
    return f"{'>' * depth} {content}" if depth else content
