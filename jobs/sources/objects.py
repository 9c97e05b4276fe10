"""Objects of an S3 bucket as a source: one object, or all under a prefix, each read like a file.

The bucket's address, credentials and CA come from the environment, as for the archive's store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jobs.contracts.errors import MissingInputError, UsageError
from jobs.contracts.records import Reject
from jobs.contracts.s3_store import S3Store
from jobs.contracts.store import StoreOptions
from jobs.files import decompressing
from jobs.mail.limits import DAMAGED
from jobs.mail.mbox import RawMail
from jobs.sources.folders import MailFile
from jobs.sources.options import ReadOptions
from jobs.sources.parts import Batch, batches, read_stream, unless_damaged

_NO_MAIL = "_COMPLETE.json"
"""What `refrain upload` puts beside a folder's files."""


@dataclass(frozen=True, slots=True)
class ObjectSource:
    """`s3://bucket/key`, or the objects under `s3://bucket/prefix/`."""

    bucket: str
    key: str
    may_be_empty: bool = False

    @classmethod
    def parse(cls, url: str) -> ObjectSource:
        """The source at a URL; UsageError for one without a bucket."""
        bucket, _, key = url.removeprefix("s3://").partition("/")
        if not bucket:
            raise UsageError(f"no bucket in {url}", hint="write s3://bucket/key")
        return cls(bucket, key)

    @property
    def name(self) -> str:
        """See Source."""
        return self.key.rstrip("/").rpartition("/")[2] or self.bucket

    def parts(self, options: ReadOptions) -> Iterator[Batch]:
        """See Source; MissingInputError where there is no such object, and the store's own errors."""
        return batches(self._mails(options))

    def _mails(self, options: ReadOptions) -> Iterator[RawMail | Reject]:
        store = S3Store(self.bucket, "", StoreOptions.from_environment(), read_only=True)
        if self.key and not self.key.endswith("/") and store.exists(self.key):
            yield from _read(store, self.key, MailFile(Path(self.name), self.name), options)
            return
        prefix = f"{self.key.rstrip('/')}/" if self.key else ""
        found = False
        for key in store.list(prefix):
            found = True
            name = key.removeprefix(prefix)
            if name.rpartition("/")[2] == _NO_MAIL:
                continue
            file = MailFile(Path(name), name, name.rpartition("/")[0] or None)
            yield from unless_damaged(_read(store, key, file, options), partial(_whole_object, store, key, name))
        if not found:
            raise MissingInputError("no such object, and none under it", where=f"s3://{self.bucket}/{self.key}")


def _read(store: S3Store, key: str, file: MailFile, options: ReadOptions) -> Iterator[RawMail | Reject]:
    """The mails of an object; none where it has been removed since it was listed."""
    try:
        raw = store.open_listed(key)
    except MissingInputError:
        return
    with raw, decompressing(raw, f"{store.url}/{key}") as stream:
        yield from read_stream(stream, file, options)


def _whole_object(store: S3Store, key: str, name: str) -> Reject:
    """The reject of an object whose compressed data is damaged, as it stands in the store."""
    with store.open_listed(key) as raw:
        digest = hashlib.file_digest(raw, "sha256")
        return Reject(name, 0, raw.tell(), digest.hexdigest(), DAMAGED)
