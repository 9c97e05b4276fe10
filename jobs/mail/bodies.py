"""What a mail says: its text, part by part, and the names of what is attached to it.

- text/plain is taken before text/html where a mail offers both, unless it is empty or only says
  that the reader needs HTML.
- The inline text parts of a mail follow one another; everything else, and text that has a file name
  and is not the first part, is named, not embedded.
- An attached mail is named too: its text is not this sender's, and where it matters it is in the
  archive itself.
- Signatures (OpenPGP, S/MIME) and the pictures of an HTML page are not even named.

Limits hold hostile mail: depth, number of parts, bytes of text; each leaves a flag.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import islice

from jobs.mail.encoded_words import one_line
from jobs.mail.html import MAX_HTML_CHARS, declared_charset, html_to_text
from jobs.mail.mime import ParameterValue, Part, parse_parameters, part_at, subparts, undo_transfer_encoding, unflow
from jobs.mail.plaintext import decode_text, plain, tidy

MAX_DEPTH = 16
MAX_PARTS = 500
MAX_NAME_CHARS = 200
MAX_TEXT_BYTES = 1 << 20
"""Of one mail's text parts together, transfer encoding included."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """Something that a mail carries and that is not its text."""

    name: str
    content_type: str
    num_bytes: int

    def __str__(self) -> str:
        return f"[attachment: {', '.join(filter(None, (self.name, self.content_type)))}, {self.num_bytes} bytes]"


Block = str | Attachment


@dataclass(slots=True)
class Bodies:
    """Reads one mail's bodies; afterwards `flags` says what was odd in them."""

    flags: set[str] = field(default_factory=set)
    charset: str | None = None
    """What the first text part declares."""
    _num_parts: int = 0
    _num_text_bytes: int = 0

    def read(self, mail: Part) -> list[Block]:
        """The text parts, cleaned, and the attachments, in the order of the mail."""
        return self._read(mail, 0, "text/plain", with_text=True, first=True)

    def _read(self, part: Part, depth: int, default: str, *, with_text: bool, first: bool) -> list[Block]:
        kind = _content_type(part, default)
        if kind.value.startswith("multipart/"):
            children = self._children(part, kind.parameters.get("boundary", ""), depth)
            if children:
                return self._read_multipart(kind, children, depth, with_text=with_text)
            kind = ParameterValue("text/plain", {})
        disposition = parse_parameters(part.headers.get(b"content-disposition"))
        if not _is_text(kind.value) or (depth > 0 and _is_file(kind, disposition, first=first)):
            return _named(part, kind, disposition)
        text = self._text(part, kind) if with_text else ""
        return [text] if text else []

    def _children(self, part: Part, boundary: str, depth: int) -> list[Part]:
        if not boundary:
            self.flags.add("boundary-missing")
            return []
        if depth >= MAX_DEPTH:
            self.flags.add("nested-too-deep")
            return []
        room = MAX_PARTS - self._num_parts
        ranges = list(islice(subparts(part, boundary), room + 1))
        if len(ranges) > room:
            self.flags.add("too-many-parts")
            del ranges[room:]
        elif not ranges:
            self.flags.add("boundary-missing")
        self._num_parts += len(ranges)
        return [part_at(part.raw, start, end) for start, end in ranges]

    def _read_multipart(
        self, kind: ParameterValue, children: list[Part], depth: int, *, with_text: bool
    ) -> list[Block]:
        if kind.value == "multipart/alternative" and with_text:
            return self._alternative(children, depth)
        default = "message/rfc822" if kind.value == "multipart/digest" else "text/plain"
        blocks: list[Block] = []
        for position, child in enumerate(children):
            if kind.value == "multipart/related" and position and b"content-id" in child.headers:
                continue
            blocks += self._read(child, depth + 1, default, with_text=with_text, first=not position)
        return blocks

    def _alternative(self, children: list[Part], depth: int) -> list[Block]:
        """The plain text among several versions of a text, else the richest that says anything."""
        types = [_content_type(child, "text/plain").value for child in children]
        plain: list[Block] = []
        for child, content_type in zip(children, types, strict=True):
            if content_type == "text/plain":
                plain += self._read(child, depth + 1, "text/plain", with_text=True, first=True)
        enough = bool(plain) and not _is_stub(plain)
        for child, content_type in zip(reversed(children), reversed(types), strict=True):
            if content_type == "text/html" or content_type.startswith("multipart/"):
                if enough and content_type == "text/html":
                    continue
                rich = self._read(child, depth + 1, "text/plain", with_text=not enough, first=True)
                if enough:
                    return plain + rich
                if rich:
                    return rich
        return plain

    def _text(self, part: Part, kind: ParameterValue) -> str:
        room = max(0, MAX_TEXT_BYTES - self._num_text_bytes)
        if part.end - part.start > room:
            self.flags.add("text-cut")
        body = part.raw[part.start : min(part.end, part.start + room)]
        self._num_text_bytes += len(body)
        data = undo_transfer_encoding(body, part.headers.get(b"content-transfer-encoding"))
        charset = kind.parameters.get("charset")
        self.charset = self.charset or charset
        is_html = kind.value in _HTML_TYPES or (b"content-type" not in part.headers and _looks_like_html(data))
        if is_html and not charset:
            charset = declared_charset(data)
        text = decode_text(data, charset, self.flags)
        if is_html:
            if len(text) > MAX_HTML_CHARS:
                self.flags.add("text-cut")
            text = plain(html_to_text(text))
        elif kind.parameters.get("format", "").lower() == "flowed":
            text = unflow(text, delete_space=kind.parameters.get("delsp", "").lower() == "yes")
        return tidy(text)


# ---- types

_HTML_TYPES = frozenset({"text/html", "application/xhtml+xml", "text/enriched", "text/richtext"})
_NOT_TEXT = frozenset(
    {"text/calendar", "text/vcard", "text/x-vcard", "text/directory", "text/rtf", "text/css", "text/csv", "text/xml"}
    | {"text/javascript", "text/rfc822-headers", "text/x-amp-html", "text/x-moz-deleted"}
)
_UNNAMED = frozenset({"application/pgp-signature", "application/pkcs7-signature", "application/x-pkcs7-signature"})
_STUB = re.compile(
    r"\bhtml\b|view (?:this|the) (?:e-?mail|message|newsletter)|(?:e-?mail|mail) (?:client|reader|program)",
    re.IGNORECASE,
)
_MAX_STUB_CHARS = 300
_HTML_START = re.compile(rb"\s*+(?:<\?xml[^>]{0,200}>\s*+)?<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)


def _content_type(part: Part, default: str) -> ParameterValue:
    kind = parse_parameters(part.headers.get(b"content-type"))
    if "/" in kind.value:
        return kind
    return ParameterValue(default if not kind.value else "text/plain", kind.parameters)


def _is_text(content_type: str) -> bool:
    return (content_type.startswith("text/") and content_type not in _NOT_TEXT) or content_type in _HTML_TYPES


def _is_file(kind: ParameterValue, disposition: ParameterValue, *, first: bool) -> bool:
    """Whether a text part is a file: attached, or with a file's name and not the first of its multipart (RFC 8621)."""
    if disposition.value == "attachment":
        return True
    return not first and bool(disposition.parameters.get("filename") or kind.parameters.get("name"))


def _looks_like_html(data: bytes) -> bool:
    return _HTML_START.match(data) is not None


def _is_stub(blocks: list[Block]) -> bool:
    text = "".join(block for block in blocks if isinstance(block, str))
    return len(text) <= _MAX_STUB_CHARS and _STUB.search(text) is not None


def _named(part: Part, kind: ParameterValue, disposition: ParameterValue) -> list[Block]:
    if kind.value in _UNNAMED:
        return []
    name = disposition.parameters.get("filename") or kind.parameters.get("name") or ""
    if not name and kind.value == "message/rfc822":
        name = part_at(part.raw, part.start, part.end).headers.text(b"subject")
    return [Attachment(one_line(name)[:MAX_NAME_CHARS], one_line(kind.value)[:MAX_NAME_CHARS], _decoded_size(part))]


def _decoded_size(part: Part) -> int:
    """Bytes of an attachment, reckoned without decoding it where it is base64."""
    size = part.end - part.start
    encoding = (part.headers.get(b"content-transfer-encoding") or b"").lower()
    if encoding.startswith(b"base64"):
        blanks = sum(part.raw.count(blank, part.start, part.end) for blank in (b"\n", b"\r", b" ", b"\t"))
        tail = part.raw[max(part.start, part.end - 16) : part.end]
        return max(0, (size - blanks) * 3 // 4 - tail.count(b"="))
    if encoding.startswith(b"quoted-printable") and size <= 2 * MAX_TEXT_BYTES:
        return len(undo_transfer_encoding(part.raw[part.start : part.end], encoding))
    return size
