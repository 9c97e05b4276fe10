"""The store: what every part may ask of a folder or of an S3 bucket, and no more.

Keys are relative, `/`-separated and never start with `/`. A key's bytes are visible whole or
not at all. `put_if_absent` is what the assignments log stands on: of many writers of one key
exactly one wins, and each is told truly whether it was the one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote

from jobs.contracts.errors import MissingInputError, UsageError

_MAX_KEY_BYTES = 1000  # S3 takes 1,024, the archive's own prefix included


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How to reach an S3 store; a folder needs none. Credentials come from the environment alone."""

    endpoint: str | None = None
    region: str | None = None
    sse: str | None = None
    """Server-side encryption: `AES256` or `aws:kms`."""
    sse_kms_key_id: str | None = None
    ca_bundle: str | None = None
    """File with the certificates of a private CA."""
    addressing_style: str = "auto"
    """`path`, `virtual` or `auto`."""

    @classmethod
    def from_environment(cls) -> StoreOptions:
        """What AWS_REGION and REFRAIN_S3_… say; the SDK knows the other variables (AWS_…) itself, but not that one."""
        return cls(
            region=os.environ.get("AWS_REGION") or None,
            sse=os.environ.get("REFRAIN_S3_SSE"),
            sse_kms_key_id=os.environ.get("REFRAIN_S3_SSE_KMS_KEY_ID"),
            addressing_style=os.environ.get("REFRAIN_S3_ADDRESSING_STYLE") or "auto",
        )


class Store(Protocol):
    """Objects by key. All methods raise the errors of `jobs.contracts.errors` and nothing else."""

    @property
    def url(self) -> str:
        """Where it is, as a user would write it."""
        ...

    def get(self, key: str) -> bytes:
        """The whole object; MissingInputError where there is none."""
        ...

    def open(self, key: str) -> BinaryIO:
        """The object as a readable, seekable stream, for what is too large to hold; MissingInputError.

        Its reads raise TransientError where the connection breaks for good.
        """
        ...

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        ...

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[str]:
        """Keys under a prefix in ascending order, only those after `start_after`."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write or replace an object, atomically."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write an object that must not be there yet. True: this call wrote it; False: somebody else did.

        Safe against lost responses: a write of ours whose answer never came is recognised as ours.
        For what fits in one request: 5 GiB at most, and meant for much less.
        """
        ...

    def upload(self, key: str, path: Path) -> None:
        """Write or replace an object from a file of any size, atomically."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""
        ...


def check_key(key: str) -> str:
    """The key itself; UsageError for one that could reach outside the archive or that not every store can hold.

    A part that starts with a dot is refused too: a folder store keeps unfinished files under such a name.
    """
    parts = key.split("/")
    if not all(parts) or any(part.startswith(".") for part in parts):
        raise UsageError(f"not a key: {key!r}", hint="parts between slashes must not be empty or start with a dot")
    if "\\" in key or not key.isprintable() or len(key.encode("utf-8", "replace")) > _MAX_KEY_BYTES:
        raise UsageError(f"not a key: {key!r}", hint="use printable characters, no backslash, 1,000 bytes at most")
    return key


def _parted(url: str) -> tuple[str, str]:
    """A URL's scheme and what follows it; a path's are those of its file:// URL."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "file", str(Path(url).absolute())
    return scheme, unquote(rest) if scheme == "file" else rest


def store_folder(url: str) -> Path | None:
    """The folder that a store is in; None for a store of another kind."""
    scheme, rest = _parted(url)
    return Path(rest) if scheme == "file" else None


def open_store(url: str, options: StoreOptions | None = None, *, read_only: bool = False) -> Store:
    """The store at `file:///folder`, a folder's path, or `s3://bucket/prefix`.

    Opening it for writing proves that conditional writes work: 24 racing puts of one key must
    give one winner. Raises UnfitStoreError where they do not, MissingInputError for a missing
    bucket, AccessError for refused credentials, OutputError for a folder that cannot be
    written, UsageError for a URL of another kind.
    """
    scheme, rest = _parted(url)
    store: Store
    if scheme == "file":
        from jobs.contracts.folder_store import FolderStore

        if not rest.startswith("/"):
            raise UsageError(f"not an absolute path: {url}", hint="write file:///absolute/path, or the path alone")
        store = FolderStore(Path(rest), read_only=read_only)
    elif scheme == "s3":
        from jobs.contracts.s3_store import S3Store

        bucket, _, prefix = rest.partition("/")
        if not bucket:
            raise UsageError(f"no bucket in {url}", hint="write s3://bucket/archive")
        store = S3Store(bucket, prefix.strip("/"), options or StoreOptions(), read_only=read_only)
    else:
        raise UsageError(f"no such kind of store: {url}", hint="use file:///folder or s3://bucket/prefix")
    if not read_only:
        from jobs.contracts.store_probe import prove_conditional_writes

        prove_conditional_writes(store)
    return store


_OF_ARCHIVES = ("assignments/", "cycles/")
"""Where an archive's first keys are."""
_KEYS_LOOKED_AT = 10_000


def open_archive(url: str, options: StoreOptions | None = None) -> Store:
    """The store of an archive, to read from; one without any passes for an empty archive.

    Raises what `open_store` does, and MissingInputError where an archive lies not there but one folder further down.
    """
    store = open_store(url, options, read_only=True)
    if any(next(store.list(first), None) for first in _OF_ARCHIVES):
        return store
    below = {name for key in islice(store.list(), _KEYS_LOOKED_AT) if (name := _archive_of(key))}
    if not below:
        return store
    first, *others = (f"{url.rstrip('/')}/{name}" for name in sorted(below))
    also = f", and in {', '.join(others)}" if others else ""
    raise MissingInputError(f"no archive in {url}; there is one in {first}{also}", hint="name it with --store")


def _archive_of(key: str) -> str | None:
    """The first part of a key of an archive that lies below the store."""
    name, _, rest = key.partition("/")
    return name if rest.startswith(_OF_ARCHIVES) else None
