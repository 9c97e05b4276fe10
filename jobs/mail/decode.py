"""One raw mail to what is trained on: who, when, what about, which mails it refers to, and its text.

The text comes twice: with quotes and without them, for whether a quoted mail is in the archive is
known only where threads are. Signatures, list footers and disclaimers are gone from both, as the
options say.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from jobs.contracts.records import SHORT_DIGEST_CHARS
from jobs.mail.addresses import sender
from jobs.mail.bodies import Block, Bodies
from jobs.mail.headers import MAX_HEADER_BYTES, Headers, iso, message_ids, parse_date
from jobs.mail.languages import FORWARD_PREFIXES
from jobs.mail.mime import Part, part_at
from jobs.mail.plaintext import collapse
from jobs.mail.quoting import Span, quote_spans
from jobs.mail.signatures import disclaimer_spans, footer_spans, signature_spans, without_armor

MAX_REFERENCES = 500
"""Of a longer References field the first, which names the thread's root, and the newest count."""

_FORWARDED = re.compile(rf"(?:{'|'.join(FORWARD_PREFIXES)})\s*:", re.IGNORECASE)
_DIGESTED_FIELDS = (b"message-id", b"from", b"date", b"subject")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class TextOptions:
    """What is taken out of a text besides quotes."""

    strip_signatures: bool = True
    """What follows `-- `, "Sent from my …", and the armor of OpenPGP signatures."""
    strip_footers: bool = True
    """What list software adds: how to unsubscribe."""
    strip_disclaimers: bool = True
    """CONFIDENTIALITY NOTICE and its kin."""


@dataclass(slots=True)
class DecodedMail:
    """A mail, decoded. Nothing in it depends on any other mail."""

    message_id: str
    sender: str
    """The address of From in lower case, or a name where a list rewrote From; "" where nobody is named."""
    subject: str
    date: str | None
    """`YYYY-MM-DDTHH:MM:SSZ`: of the Date field, else the envelope's; None where neither makes sense."""
    references: list[str]
    """Oldest first."""
    in_reply_to: list[str]
    text: str
    text_unquoted: str
    """The text without its quotes; "" where the mail is nothing but a quote."""
    content_digest: str
    flags: list[str]
    """What was odd, sorted; `decode` lists them."""


def decode(
    raw: bytes, *, message_id: str, envelope_date: str | None = None, options: TextOptions = TextOptions()
) -> DecodedMail:
    """Decode one mail. Pure; raises nothing on any bytes; time and memory linear in them.

    Flags: `date-from-envelope`, `date-missing`, `charset-replaced`, `control-characters`,
    `boundary-missing`, `nested-too-deep`, `too-many-parts`, `text-cut`, `header-cut`,
    `references-cut`, `no-text`.
    """
    mail = part_at(raw, 0, len(raw))
    headers = mail.headers
    bodies = Bodies()
    blocks = bodies.read(mail)
    flags = bodies.flags
    subject = headers.text(b"subject", bodies.charset)
    text, unquoted = _texts(blocks, options, forwarded=_FORWARDED.match(subject) is not None)
    if not text:
        flags.add("no-text")
    if mail.start > MAX_HEADER_BYTES:
        flags.add("header-cut")
    return DecodedMail(
        message_id=message_id,
        sender=sender(headers),
        subject=subject,
        date=_date(headers, envelope_date, flags),
        references=_references(headers, flags),
        in_reply_to=message_ids(headers.get(b"in-reply-to"))[:MAX_REFERENCES],
        text=text,
        text_unquoted=unquoted,
        content_digest=_content_digest(mail),
        flags=sorted(flags),
    )


def date_of(raw: bytes, envelope_date: str | None = None) -> str | None:
    """The date that `decode` gives a mail; reads its header alone."""
    return _date(part_at(raw, 0, len(raw)).headers, envelope_date, set())


def _date(headers: Headers, envelope_date: str | None, flags: set[str]) -> str | None:
    moment = parse_date(headers.get(b"date"))
    if moment is None:
        moment = parse_date(envelope_date)
        flags.add("date-missing" if moment is None else "date-from-envelope")
    return iso(moment) if moment is not None else None


def _references(headers: Headers, flags: set[str]) -> list[str]:
    references = message_ids(headers.get(b"references"))
    if len(references) > MAX_REFERENCES:
        flags.add("references-cut")
        return references[:1] + references[1 - MAX_REFERENCES :]
    return references


def content_digest(raw: bytes) -> str:
    """Short digest of a mail without its transport: equal for copies of it that came by different routes.

    Over the values of Message-ID, From, Date and Subject, unfolded (white space counts as one
    space), a line each, then the body with LF line ends and without white space at its end.
    """
    return _content_digest(part_at(raw, 0, len(raw)))


def _content_digest(mail: Part) -> str:
    values = [b" ".join((mail.headers.get(name) or b"").split()) for name in _DIGESTED_FIELDS]
    digest = hashlib.sha256(b"\n".join([*values, b""]))
    end = _content_end(mail.raw, mail.start, mail.end)
    position = mail.start
    while position < end:
        line_break = mail.raw.find(b"\n", position + _CHUNK_BYTES, end) if end - position > _CHUNK_BYTES else -1
        stop = line_break + 1 if line_break >= 0 else end
        digest.update(mail.raw[position:stop].replace(b"\r\n", b"\n"))
        position = stop
    return digest.hexdigest()[:SHORT_DIGEST_CHARS]


def _content_end(raw: bytes, start: int, end: int) -> int:
    """The end of a body without white space behind it."""
    while end > start:
        piece = max(start, end - 4096)
        content = raw[piece:end].rstrip()
        if content:
            return piece + len(content)
        end = piece
    return end


def _texts(blocks: list[Block], options: TextOptions, *, forwarded: bool) -> tuple[str, str]:
    """The text of all blocks with quotes, and without; attachments stand in both by name."""
    kept: list[str] = []
    unquoted: list[str] = []
    for block in blocks:
        if isinstance(block, str):
            text, own = strip_text(block, options, forwarded=forwarded)
        else:
            text = own = str(block)
        kept.append(text)
        unquoted.append(own)
    return "\n\n".join(filter(None, kept)), "\n\n".join(filter(None, unquoted))


def strip_text(text: str, options: TextOptions = TextOptions(), *, forwarded: bool = False) -> tuple[str, str]:
    """A text without signatures, footers and disclaimers as the options say, and the same without its quotes."""
    if options.strip_signatures:
        text = collapse(without_armor(text))
    quotes = quote_spans(text, forwarded=forwarded)
    spans: list[Span] = []
    if options.strip_footers:
        spans += footer_spans(text)
    if options.strip_disclaimers:
        spans += disclaimer_spans(text, quotes)
    if options.strip_signatures:
        spans += signature_spans(text, quotes)
    stripped = _without(text, spans)
    return stripped, _without(text, spans + quotes) if quotes else stripped


def _without(text: str, spans: list[Span]) -> str:
    if not spans:
        return text
    pieces: list[str] = []
    position = 0
    for start, end in sorted(spans):
        if start > position:
            pieces.append(text[position:start])
        position = max(position, end)
    pieces.append(text[position:])
    return collapse("\n\n".join([piece.strip("\n") for piece in pieces if piece.strip("\n")]))
