"""Which base model, adapter and index are to answer, and where they are found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from jobs.contracts.artifacts import BASE_KEY
from jobs.contracts.errors import ConfigError, IntegrityError, UsageError
from jobs.contracts.records import Json
from jobs.contracts.store import Store, StoreOptions
from jobs.production import NO_ADAPTER, records, require_adapter

if TYPE_CHECKING:
    from jobs.ml.base_model import Base

ALIAS = "refrain"
"""The model's name for who wants whatever is in service."""
DIGEST_DIGITS = 16
"""Of a digest, where a name or a folder needs no more."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a user named; what is empty is taken from the archive, where there is one."""

    store_url: str | None = None
    cycle: str | None = None
    vector_db: Path | None = None
    base: str | None = None
    revision: str | None = None
    adapter: Path | None = None
    served: str = ""
    """`key@digest` of an adapter in the store, or `@` for the bare base model; empty: what is in service."""
    base_only: bool = False
    embedding_model: str | None = None
    device: str | None = None
    precision: str = "bf16"
    vllm: str | None = None
    """URL of a vLLM that has the model; None: it is loaded here."""


@dataclass(frozen=True, slots=True)
class InStore:
    """An adapter in the archive's store, by its key and digest; both empty for the bare base model."""

    key: str = ""
    digest: str = NO_ADAPTER
    seq: int = 0
    """Of the production record that says so; 0 where a user does."""

    def __post_init__(self) -> None:
        if bool(self.key) != bool(self.digest):
            raise UsageError(
                f"not an adapter: {self.key}@{self.digest}", hint="write key@digest, or @ for the bare base model"
            )


def in_service(store: Store) -> InStore | None:
    """What the newest production record says; None where there is none."""
    newest = max(records(store), key=lambda record: record.seq, default=None)
    return None if newest is None else InStore(newest.adapter or "", newest.sha256, newest.seq)


def parse_served(value: str) -> InStore:
    """`key@digest`; UsageError for anything else."""
    key, _, digest = value.rpartition("@")
    return InStore(key, digest)


def versioned_name(digest: str) -> str:
    """A name that no other adapter will ever have."""
    return f"{ALIAS}-{digest[:DIGEST_DIGITS]}"


def bring(store: Store, adapter: InStore, scratch: Path) -> Path | None:
    """The adapter's files on this machine, every digest checked; None for the bare base model.

    MissingInputError where it is not there, IntegrityError where it is not what was named.
    """
    from jobs.ml.adapter_files import adapter_digest

    if not adapter.key:
        return None
    folder = require_adapter(store, adapter.key, scratch)
    found = adapter_digest(folder)
    if found != adapter.digest:
        raise IntegrityError(
            f"the adapter there has digest {found}, not {adapter.digest}", where=f"{store.url}/{adapter.key}"
        )
    return folder


def find_wanted_base(wanted: Wanted, store: Store | None, options: StoreOptions) -> Base | None:
    """The base model that is wanted, the archive's, or the adapter's; None where none is named anywhere.

    ConfigError for another one than the archive's adapters are of, and what `find_base` raises.
    """
    from jobs.ml.base_model import find_base
    from jobs.ml.checkpoint_files import base_of

    settled: Json = {}
    if store is not None and store.exists(BASE_KEY):
        settled = orjson.loads(store.get(BASE_KEY))
    name = wanted.base or settled.get("base")
    known = settled.get("revision") if name and name == settled.get("base") else None
    revision = wanted.revision or known
    if wanted.adapter is not None:
        base = base_of(wanted.adapter, name, revision, options=options)
    elif name:
        base = find_base(name, revision, options=options)
    else:
        return None
    if settled and base.digest != settled["digest"]:
        raise ConfigError(
            f"the archive's adapters are of another base model: its digest is {settled['digest']} "
            f"({settled['base']}), that of {name} is {base.digest}",
            where="base model",
            hint="name the archive's own by --base",
        )
    return base
