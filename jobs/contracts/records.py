"""The records that pass between stages, one JSON object each.

Plain slotted dataclasses: millions of them go by, and orjson writes them as they are.
Digests are lower-case hex of SHA-256; a *short* digest is its first 32 digits (128 bits).
Times are UTC, `YYYY-MM-DDTHH:MM:SSZ`. Token counts are the base model's.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

LENGTH_BUCKET_EDGES = (256, 512, 1024)
"""Upper edges, in tokens and inclusive, of all length buckets but the last, which the budget closes."""

LENGTH_NAMES = ("num_tokens", "tokens", "token_count", "length")
"""Under which of these names a file of the original's shape has a chunk's number of tokens."""

SHORT_DIGEST_CHARS = 32


def short_digest(data: bytes | str) -> str:
    """The first 128 bits of SHA-256, as 32 hex digits."""
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()[:SHORT_DIGEST_CHARS]


def length_bucket(num_tokens: int) -> int:
    """Index of the length bucket: 0 for up to 256 tokens, … 3 for more than 1,024."""
    return sum(num_tokens > edge for edge in LENGTH_BUCKET_EDGES)


@dataclass(slots=True)
class MailRecord:
    """One mail as `parse` writes it. Files of the original shape hold the first two fields alone."""

    message_id: str
    """The Message-ID header without brackets, or `sha256:` + short digest of the raw bytes."""
    email_message: str
    """The raw RFC 822 bytes as text: UTF-8 where they are valid UTF-8, else Latin-1 (see `encoding`)."""
    encoding: str = "utf-8"
    """`utf-8` or `latin-1`: encoding `email_message` with it gives the raw bytes back, exactly."""
    sha256: str = ""
    """Digest of the raw bytes."""
    source: str = ""
    """Where the mail was found: a file's name, within the folder that was named; or `user@host/FOLDER`."""
    offset: int = 0
    """Byte offset of the mail in its (decompressed) source; the UID for IMAP."""
    envelope_date: str | None = None
    """When the mail was delivered: by the mbox separator, IMAP's INTERNALDATE, or the name of a Maildir's file;
    without these by the topmost Received field."""
    folder: str | None = None
    """Maildir or IMAP folder; for any other file its folder within the one that was named."""
    labels: list[str] = field(default_factory=list)
    """Flags of a Maildir or of IMAP (`Seen`, `Replied`, `Flagged`, `Draft`, `Trashed` …), and Gmail's labels."""

    @property
    def raw(self) -> bytes:
        """The mail's bytes as they were found."""
        return self.email_message.encode(self.encoding)


@dataclass(slots=True)
class Reject:
    """A mail, or a piece of a file, that `parse` did not take, and why. Nothing is dropped without one."""

    source: str
    offset: int
    length: int
    sha256: str
    reason: str


@dataclass(slots=True)
class Message:
    """One decoded mail, as `splits/` holds it."""

    message_id: str
    sender: str
    subject: str
    date: str
    references: list[str]
    in_reply_to: list[str]
    text: str
    thread_id: str
    split: Split = "train"
    window_idx: int = 0
    flags: list[str] = field(default_factory=list)
    """What was odd: `date-from-envelope`, `charset-replaced`, `duplicate-message-id` …"""


@dataclass(slots=True)
class ChunkMessage:
    """Where one message (or one part of it) stands in a chunk's text."""

    message_id: str
    sender: str
    date: str
    start: int
    """Offset of the body in `Chunk.text`, in characters; what lies before it is its header."""
    end: int
    num_tokens: int
    """Tokens of the body alone."""
    context: bool = False
    """True for overlap: read, never a target."""
    part: int = 0
    num_parts: int = 1


@dataclass(slots=True)
class Chunk:
    """One training example: a contiguous slice of one thread, rendered by the template."""

    chunk_id: str
    thread_id: str
    split: Split
    window_idx: int
    sender: str
    """Who wrote most of the tokens outside the overlap; ties: the latest."""
    subject: str
    date: str
    """Of the latest message."""
    num_tokens: int
    """Of the whole text, end-of-text included."""
    num_target_tokens: int
    """Of the bodies outside the overlap."""
    messages: list[ChunkMessage]
    text: str


@dataclass(slots=True)
class Assignment:
    """One row of the assignments log: no text, no address."""

    chunk_id: str
    thread_id: str
    split: Split
    window_idx: int
    messages: list[str]
    """Short digests of the Message-IDs whose text is a target here, in order."""
    contents: list[str]
    """Short digest of each such message's content, in the same order (see jobs.mail.decode)."""
    ghosts: list[str]
    """Short digests of Message-IDs that these messages refer to and that are not in the archive."""
    text_sha256: str
    """Digest of the chunk's text (UTF-8)."""


@dataclass(slots=True)
class Length:
    """Length metadata of one chunk, and whose it is: what rehearsal is stratified by."""

    chunk_id: str
    sender: str
    num_tokens: int
    num_target_tokens: int
    length_bucket: int


@dataclass(slots=True)
class Exclusion:
    """Something that leaves the scores from `window_idx` on. Rows are only ever added."""

    kind: Literal["thread", "message"]
    """A thread takes all its eval chunks out; a message is masked, not its chunk."""
    id: str
    """The thread_id, or the short digest of the Message-ID."""
    window_idx: int
    reason: Literal["joined", "near-duplicate"]
    other: str
    """The train thread that it was joined with, or the train message that nearly repeats it (short digest)."""
    score: float = 1.0
    """Of a near-duplicate: the share of its 5-grams of words that stand in the other. Rows of before that was so have
    Jaccard similarity, which is never more."""


@dataclass(slots=True)
class Link:
    """A mail that joined two frozen threads: neither moves, the link is kept."""

    message: str
    """Short digest of the Message-ID of the joining mail."""
    thread_id: str
    """Where it went."""
    other_thread_id: str
    window_idx: int


@dataclass(slots=True)
class ManifestEntry:
    """One old train chunk that may be rehearsed; `new_train.json` lists its chunks in the same shape."""

    chunk_id: str
    thread_id: str
    split: Split
    window_idx: int
    sender: str = ""
    num_tokens: int = 0
    length_bucket: int = 0


def chunk_id(thread_id: str, k: int) -> str:
    """`<thread_id>_window_<k>`: k counts the chunks of the thread, from 0."""
    return f"{thread_id}_window_{k}"


def split_chunk_id(value: str) -> tuple[str, int]:
    """The thread id and k of a chunk id; ValueError where it has another form."""
    thread_id, separator, k = value.rpartition("_window_")
    if not separator or not k.isascii() or not k.isdigit():
        raise ValueError(f"not a chunk id: {value!r}")
    return thread_id, int(k)


Json = dict[str, Any]
