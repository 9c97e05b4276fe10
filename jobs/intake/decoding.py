"""Mail records to decoded mails, in worker processes; the order is that of the records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import orjson

from jobs.assignments.digests import Bytes, DigestIndex, pack
from jobs.contracts.errors import InputError
from jobs.contracts.records import Json, MailRecord, short_digest
from jobs.mail import template
from jobs.mail.decode import DecodedMail, TextOptions, content_digest, date_of, decode
from jobs.mail.headers import Headers, message_id, split_header
from jobs.mail.near_duplicates import fingerprints
from jobs.ml.tokens import TokenCounter, load_token_counter
from jobs.processes import num_cpus, shared

BATCH_RECORDS = 256
UNCOUNTED = -1
EPOCH = "1970-01-01T00:00:00Z"
"""The date of a mail that has none, and no neighbour that has one."""

PARSE_HINT = "`refrain parse` makes such records from mail"
_RECORD_FIELDS = frozenset(MailRecord.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the workers need to know."""

    tokenizer: str
    text: TextOptions
    known_contents: Bytes
    """Content digests (16 bytes each) that the archive holds: such mails are not decoded again."""


@dataclass(slots=True)
class Decoded:
    """One mail, decoded and measured."""

    line: bytes
    """What the spool keeps: JSON of sender, subject, text, and so on."""
    message_id: str
    sender: str
    subject: str
    date: str | None
    """None where neither the mail nor its envelope has one; the neighbour's is taken then."""
    references: list[str]
    in_reply_to: list[str]
    content: str
    """Content digest."""
    num_header_tokens: int
    """UNCOUNTED where the date is yet to come."""
    num_tokens: int
    """Of the text with quotes."""
    num_unquoted_tokens: int


@dataclass(slots=True)
class Held:
    """A mail that is in the archive already: it is not decoded again."""

    content: str
    """Content digest."""
    date: str | None = None
    """Of one that the next mail may have to take its date from; None for the others."""


@dataclass(slots=True)
class Batch:
    """What a worker gives back for a run of records."""

    mails: list[Decoded | Held]
    fingerprinted: np.ndarray
    """Bool per decoded mail: whether its text is long enough to be compared."""
    bands: np.ndarray
    """uint64, one row per mail of `fingerprinted`."""


def decode_all(records: Iterable[Json], settings: Settings, workers: int | None) -> Iterator[Batch]:
    """Decode records of the parse stage's shape, or of the original's.

    Raises InputError for a record without `email_message`. Small inputs are decoded right here.
    """
    batches = _batches(records)
    first = list(islice(batches, 2))
    workers = workers or num_cpus()
    if workers == 1 or len(first) < 2:
        worker = _Worker(settings)
        yield from map(worker, first)
        yield from map(worker, batches)
        return
    for _, batch in shared(_work, chain(first, batches), workers=workers, start=_start, told=(settings,)):
        yield batch


def _batches(records: Iterable[Json]) -> Iterator[list[Json]]:
    iterator = iter(records)
    while batch := list(islice(iterator, BATCH_RECORDS)):
        yield batch


class _Worker:
    """Decodes batches; holds what is loaded once per process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._counter = load_token_counter(settings.tokenizer)
        self._known = DigestIndex(settings.known_contents, np.arange(len(settings.known_contents), dtype=np.int32))

    def __call__(self, records: Sequence[Json]) -> Batch:
        mails = [read_record(record) for record in records]
        contents = self._known_contents(mails)
        decoded = [
            self._decode(mail) if content is None else Held(content)
            for mail, content in zip(mails, contents, strict=True)
        ]
        for record, mail, following in zip(mails, decoded, [*contents[1:], None], strict=True):
            if isinstance(mail, Held) and following is None:
                mail.date = date_of(record.raw, record.envelope_date)
        kept = [mail for mail in decoded if not isinstance(mail, Held)]
        valid, bands = fingerprints([mail.text_unquoted for mail in kept])
        measured = iter(_measure(kept, self._counter))
        return Batch([mail if isinstance(mail, Held) else next(measured) for mail in decoded], valid, bands)

    def _known_contents(self, mails: Sequence[MailRecord]) -> list[str | None]:
        """The content digest of each mail that the archive holds; None for the others."""
        if not len(self._known):
            return [None] * len(mails)
        contents = [content_digest(mail.raw) for mail in mails]
        found = self._known.find(pack(contents)) >= 0
        return [content if there else None for content, there in zip(contents, found.tolist(), strict=True)]

    def _decode(self, mail: MailRecord) -> DecodedMail:
        return decode(
            mail.raw, message_id=mail.message_id, envelope_date=mail.envelope_date, options=self._settings.text
        )


_worker: _Worker | None = None


def _start(settings: Settings) -> None:
    global _worker  # noqa: PLW0603 - one per process, set when it starts
    _worker = _Worker(settings)


def _work(records: Sequence[Json]) -> Batch:
    assert _worker is not None
    return _worker(records)


def read_record(record: Json) -> MailRecord:
    """A record of `parse`, or of the original's shape; InputError where it holds no mail.

    An id that is missing, or in brackets, is made as `parse` would have made it.
    """
    if not is_mail_record(record):
        raise InputError("a record without `email_message`", hint=PARSE_HINT)
    known = {name: value for name, value in record.items() if name in _RECORD_FIELDS}
    mail = MailRecord(**(known | {"message_id": ""}))
    given = known.get("message_id")
    try:
        raw = mail.raw
    except (LookupError, UnicodeError, TypeError) as error:
        raise InputError(f"a record's mail is not in its encoding: {error}", where=f"{given!r:.80}") from error
    mail.message_id = _own_id(given, raw)
    if not isinstance(mail.envelope_date, str):
        mail.envelope_date = None
    return mail


def is_mail_record(record: object) -> bool:
    """Whether a record can be one of a mail."""
    return isinstance(record, dict) and isinstance(record.get("email_message"), str)


def _own_id(given: object, raw: bytes) -> str:
    if isinstance(given, str) and given and not given.startswith("<"):
        return given
    value = given if isinstance(given, str) and given else Headers(split_header(raw)[0]).get(b"message-id")
    return message_id(value) or f"sha256:{short_digest(raw)}"


def _measure(mails: Sequence[DecodedMail], counter: TokenCounter) -> Iterator[Decoded]:
    headers = counter.count([template.message_header(mail.sender, mail.date or EPOCH) for mail in mails])
    tokens = counter.count([mail.text for mail in mails])
    unquoted = counter.count([mail.text_unquoted for mail in mails])
    for mail, num_header, num, num_unquoted in zip(mails, headers, tokens, unquoted, strict=True):
        kept: Json = {
            "sender": mail.sender,
            "subject": mail.subject,
            "references": mail.references,
            "in_reply_to": mail.in_reply_to,
            "text": mail.text,
            "flags": mail.flags,
        }
        if mail.text_unquoted != mail.text:
            kept["text_unquoted"] = mail.text_unquoted
        yield Decoded(
            orjson.dumps(kept),
            mail.message_id,
            mail.sender,
            mail.subject,
            mail.date,
            mail.references,
            mail.in_reply_to,
            mail.content_digest,
            UNCOUNTED if mail.date is None else num_header,
            num,
            num_unquoted,
        )
