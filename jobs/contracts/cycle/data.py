"""The data half of a cycle: where mail comes from and lies, how it is split, what is rehearsed."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from jobs.contracts.cycle.bounds import CycleModel, Name, Pattern, Place, Ratio, rules, text


class SecretRef(CycleModel):
    """A Secret in the cycle's namespace."""

    name: Name
    """Name of the Secret. Without a cluster it is ignored: credentials come from the environment."""


_KEY_WITHOUT_KMS = "sseKmsKeyId needs sse: aws:kms"


class StoreSpec(CycleModel):
    """Where archives are kept."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("!has(self.sseKmsKeyId) || (has(self.sse) && self.sse == 'aws:kms')", _KEY_WITHOUT_KMS)
        )
    )

    url: Annotated[
        str, text(1024, r"^(s3://[^/]+(/.*)?|file:///.*|[^:]+)$", "s3://bucket, file:///folder or a folder's path")
    ]
    """s3://bucket, s3://bucket/prefix, file:///folder or a folder's path. The archive lies under it by its name."""
    endpoint: Annotated[str, text(1024, r"^https?://[^\t\n\f\r /@]+/?$", "a URL such as http://minio:9000")] | None = (
        None
    )
    """URL of an S3 service other than AWS, such as http://minio:9000."""
    region: Annotated[str, text(63)] | None = None
    """Region of the bucket."""
    sse: Literal["AES256", "aws:kms"] | None = None
    """Server-side encryption of everything that is written."""
    sse_kms_key_id: Annotated[str, text(2048)] | None = None
    """The key, with `sse: aws:kms`."""
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    """Whether the bucket stands in the path or in the host name."""
    secret_ref: SecretRef | None = None
    """Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; absent where pods have their own identity."""

    @model_validator(mode="after")
    def _key_with_kms(self) -> Self:
        if self.sse_kms_key_id and self.sse != "aws:kms":
            raise ValueError(_KEY_WITHOUT_KMS)
        return self


def _exactly_one_of(*names: str) -> tuple[str, str]:
    """The rule that one of these fields is given, and its message."""
    given = ", ".join(f"has(self.{name})" for name in names)
    return f"[{given}].exists_one(one, one)", f"needs exactly one of {', '.join(names)}"


_ONE_SOURCE = _exactly_one_of("mbox", "maildir", "eml", "imap")
_CREDENTIALS = r"^imaps?://[^/@]*:[^/@]*@"
_NO_CREDENTIALS = "a password has no place here: set it in the environment or a Secret"


class Source(CycleModel):
    """One place that new mail comes from: exactly one of the fields."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            _ONE_SOURCE, (f"!has(self.imap) || !self.imap.matches(r'{_CREDENTIALS}')", _NO_CREDENTIALS)
        )
    )

    mbox: Place | None = None
    """An mbox file or a folder of them, gzip and zstd included: a path, file:// or s3://."""
    maildir: Place | None = None
    """A Maildir."""
    eml: Place | None = None
    """A file or a folder of single messages."""
    imap: (
        Annotated[str, text(1024, r"^imaps?://[^\t\n\f\r ]+$", "a URL such as imaps://ann@mail.example/INBOX")] | None
    ) = None
    """imaps://user@host/folder. The password comes from the environment or a mounted Secret."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError(_ONE_SOURCE[1])
        if self.imap and re.match(_CREDENTIALS, self.imap):
            raise ValueError(_NO_CREDENTIALS)
        return self

    def __str__(self) -> str:
        """As `refrain parse` takes it: the path or URL."""
        (place,) = self.model_dump(exclude_none=True).values()
        return str(place)


_ONE_PATTERN = _exactly_one_of("from", "to", "list", "header", "label", "folder", "subject")


class FilterRule(CycleModel):
    """One rule: exactly one of the fields. Patterns ignore case; `*` and `?` stand for any characters and any one."""

    model_config = ConfigDict(json_schema_extra=rules(_ONE_PATTERN))

    from_: Annotated[Pattern | None, Field(alias="from")] = None
    """The address of From or Sender."""
    to: Pattern | None = None
    """An address of To or Cc."""
    list_id: Annotated[Pattern | None, Field(alias="list")] = None
    """The mailing list's List-Id."""
    header: Pattern | None = None
    """A header field that is there, or with `Name=value` has that value."""
    label: Pattern | None = None
    """One of the mail's labels (Gmail Takeout, Maildir and IMAP flags)."""
    folder: Pattern | None = None
    """The Maildir or IMAP folder."""
    subject: Pattern | None = None
    """The decoded subject."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self._given()) != 1:
            raise ValueError(_ONE_PATTERN[1])
        return self

    def _given(self) -> dict[str, str]:
        return self.model_dump(exclude_none=True, by_alias=True)

    def __str__(self) -> str:
        """As `refrain parse` takes it: `from:*@notifications.example`."""
        ((kind, pattern),) = self._given().items()
        return f"{kind}:{pattern}"


class Filters(CycleModel):
    """Which mail comes in at all. What is left out is counted."""

    include: Annotated[list[FilterRule], Field(max_length=64)] = []
    """Only messages that one of these rules holds for; empty: all."""
    exclude: Annotated[list[FilterRule], Field(max_length=64)] = []
    """But none that one of these holds for."""


class Ratios(CycleModel):
    """Shares of the threads, in any unit."""

    train: Annotated[float, Field(gt=0, le=1_000_000)] = 80
    """Learnt from."""
    val: Annotated[float, Field(ge=0, le=1_000_000)] = 10
    """Chooses among checkpoints, and gates the winner."""
    test: Annotated[float, Field(ge=0, le=1_000_000)] = 10
    """Reports, and decides nothing."""


class SplitSpec(CycleModel):
    """How mail becomes chunks. Fixed for an archive at its first cycle."""

    model_config = ConfigDict(
        json_schema_extra=rules(("self.windowOverlap < self.windowSize", "windowOverlap must be less than windowSize"))
    )

    ratios: Ratios = Ratios()
    """Shares of train, val and test."""
    seed: Annotated[int, Field(ge=0, le=2**53)] = 42
    """Decides which thread goes where; the default of every other seed too."""
    window_size: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Messages in a chunk at most."""
    window_overlap: Annotated[int, Field(ge=0, le=100_000)] = 10
    """Messages that the next chunk of the thread repeats as context."""
    max_tokens: Annotated[int, Field(ge=64, le=1_048_576)] = 2048
    """Tokens in a chunk at most."""

    @model_validator(mode="after")
    def _overlap_below_size(self) -> Self:
        if self.window_overlap >= self.window_size:
            raise ValueError(f"windowOverlap {self.window_overlap} must be less than windowSize {self.window_size}")
        return self


class WindowSpec(CycleModel):
    """Which chunks are this cycle's."""

    period: Literal["week", "month"] = "week"
    """How a first import of years of mail is cut into windows."""
    active: Annotated[int, Field(ge=1, le=1000)] = 1
    """Newest windows that rehearsal leaves alone."""
    min_new_messages: Annotated[int, Field(ge=0, le=1_000_000)] = 10
    """With fewer new train messages the cycle ends as Skipped."""


class RehearsalSpec(CycleModel):
    """How much of the old is mixed in."""

    ratio: Ratio = "1:4"
    """Rehearsal to new, counted in chunks; or the share of the whole, such as 0.2."""
    max_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Cap on the share of the whole."""
    min_per_bucket: Annotated[int, Field(ge=0, le=1000)] = 2
    """Chunks of every sender and thread before the rest is shared out by volume."""
    max_per_bucket: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Cap on the chunks of one sender and thread."""
    max_samples: Annotated[int, Field(ge=0, le=100_000_000)] = 20_000
    """Old chunks that the manifest lists at most."""


class Retention(CycleModel):
    """What is kept. The log, the incumbent and what a rollback needs always are."""

    checkpoints: Annotated[int, Field(ge=1, le=1000)] = 3
    """Newest checkpoints of a cycle."""
    cycles: Annotated[int, Field(ge=1, le=10_000)] = 12
    """Newest cycles whose artifacts are kept."""
