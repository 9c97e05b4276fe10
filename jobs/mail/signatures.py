"""Signatures, list footers and disclaimers: spans of a mail's text, found near the ends of its author's own words.

Only what is delimited or says what it is goes: `-- ` and below, "Sent from my …", the footer that
list software adds, "CONFIDENTIALITY NOTICE …". A name or a greeting below the text is how the
author writes, and stays. A piece that holds a patch is never taken for a signature.
"""

from __future__ import annotations

import re
from bisect import bisect_right

from jobs.mail.languages import (
    DISCLAIMER_WORDS,
    DISCLAIMERS,
    LIST_FOOTER_WORDS,
    LIST_FOOTERS,
    LIST_FOOTERS_BELOW_RULER,
    SENT_FROM,
)
from jobs.mail.quoting import Span

MAX_SIGNATURE_CHARS = 4000
MAX_BARE_SIGNATURE_CHARS = 600
MAX_FOOTER_CHARS = 1500
MAX_DISCLAIMER_CHARS = 4000
_TELLING_CHARS = 800
"""What is looked at before anything else: the end of a footer or disclaimer still speaks of what it is."""

_PATCH = re.compile(r"\n(?:diff --git |@@ -|\+\+\+ |Index: )")
_MAX_SENT_FROM_CHARS = 80
_FOOTER = re.compile(rf"\n[ \t]{{0,8}}(?:{'|'.join(LIST_FOOTERS)})", re.IGNORECASE)
_MARK = re.compile(r"\n--( ?)(?=\n)")
_GIT_VERSION = re.compile(r"--[ ]?\n\d{1,3}(?:\.[\w-]{1,20}){1,4}(?:\n|\Z)")
_RULER = r"\n(?:[-_=*~#+]{2,}|-)[ \t]*"
_RULED_FOOTER = re.compile(rf"{_RULER}\n(?:[^\n]{{0,80}}\n)?(?:{'|'.join(LIST_FOOTERS_BELOW_RULER)})", re.IGNORECASE)
_RULER_ABOVE = re.compile(rf"{_RULER}\n{{0,2}}\Z")
_DISCLAIMER = re.compile(rf"\n[ \t*_]{{0,5}}(?:{'|'.join(DISCLAIMERS)})", re.IGNORECASE)


def signature_spans(text: str, quotes: list[Span]) -> list[Span]:
    """What follows a line `-- ` up to the next quote or the end, and "Sent from my …" lines there.

    A line `--` without its space counts where no more than a few lines follow it, one at the very
    beginning does not count. What follows a patch and git's version stays.
    """
    spans: list[Span] = []
    first_hunk = text.find("\n@@ -")
    quote_starts = [start for start, _ in quotes]
    padded = "\n" + text  # offsets in it are those of the line break before
    position = 0
    for match in _MARK.finditer(padded):
        start, exact = match.start(), bool(match[1])
        if start < position:
            continue
        index = bisect_right(quote_starts, start)
        end = quote_starts[index] if index < len(quotes) else len(text)
        limit = MAX_SIGNATURE_CHARS if exact else MAX_BARE_SIGNATURE_CHARS
        version = _GIT_VERSION.match(text, start)
        if version is not None:
            end = min(end, version.end())
        in_patch = 0 <= first_hunk < start and text.startswith(("+", "-", " ", "@"), match.end())
        blank = not text[:start].strip() if start < MAX_SIGNATURE_CHARS else False
        quoted = index > 0 and start < quotes[index - 1][1]
        if in_patch or blank or quoted or end - start > limit or _PATCH.search(text, start, end) is not None:
            continue
        spans.append((start, end))
        position = end
    return spans + _sent_from_spans(text, quotes, spans)


def _sent_from_spans(text: str, quotes: list[Span], signatures: list[Span]) -> list[Span]:
    """The line that a telephone adds: the last before the end, a signature, or the first or last quote."""
    ends = {len(text), *(start for start, _ in signatures), *(start for start, _ in quotes[:1] + quotes[-1:])}
    spans: list[Span] = []
    for end in sorted(ends):
        last = end
        while last > 0 and end - last < 3 and text[last - 1] == "\n":
            last -= 1
        start = text.rfind("\n", max(0, last - _MAX_SENT_FROM_CHARS), last) + 1
        if start and text.startswith(SENT_FROM, start):
            spans.append((start, end))
    return spans


def footer_spans(text: str) -> list[Span]:
    """The footer that list software has added at the very end, with the ruler above it."""
    tail = _tail(text, len(text), MAX_FOOTER_CHARS, LIST_FOOTER_WORDS)
    starts = [match.start() for match in (_FOOTER.search(tail), _RULED_FOOTER.search(tail)) if match is not None]
    return _span_from(min(starts), tail, len(text)) if starts else []


def disclaimer_spans(text: str, quotes: list[Span]) -> list[Span]:
    """A disclaimer at the end of the text, and one right above the quote that ends it."""
    ends = [len(text)]
    if quotes and quotes[-1][1] >= len(text):
        ends.append(quotes[-1][0])
    spans: list[Span] = []
    for end in ends:
        tail = _tail(text, end, MAX_DISCLAIMER_CHARS, DISCLAIMER_WORDS)
        match = _DISCLAIMER.search(tail)
        spans += _span_from(match.start(), tail, end) if match is not None else []
    return spans


def _tail(text: str, end: int, size: int, words: tuple[str, ...]) -> str:
    """The last `size` characters before `end`, behind a line break; "" where the very last hold none of the words."""
    start = max(0, end - _TELLING_CHARS)
    if not any(text.find(word, start, end) >= 0 for word in words):
        return ""
    start = max(0, end - size)
    return ("\n" if start == 0 else "") + text[start:end]


def _span_from(begin: int, tail: str, end: int) -> list[Span]:
    """The rest of a tail, with a ruler above it; nothing where it holds a quote or a patch, or is the whole text."""
    if "\n>" in tail[begin:] or _PATCH.search(tail, begin) is not None:
        return []
    ruler = _RULER_ABOVE.search(tail, max(0, begin - 120), begin)
    begin = ruler.start() if ruler is not None else begin
    if not tail[:begin].strip():
        return []
    return [(end - len(tail) + begin + 1, end)]


_ARMOR = re.compile(
    r"(?:\A|(?<=\n))-----BEGIN PGP SIGNED MESSAGE-----\n(?:[A-Za-z-]+: [^\n]*\n)*+\n?"
    r"|(?:\A|(?<=\n))-----BEGIN PGP SIGNATURE-----\n(?:[^\n-][^\n]*\n|\n)*+-----END PGP SIGNATURE-----(?:\n|\Z)"
)


def without_armor(text: str) -> str:
    """The text of an OpenPGP cleartext signature without its armor and dash escapes (RFC 9580, 7)."""
    if "-----BEGIN PGP SIGN" not in text:
        return text
    signed = "-----BEGIN PGP SIGNED MESSAGE-----" in text
    text = _ARMOR.sub("", text)
    return text.replace("\n- -", "\n-") if signed else text
