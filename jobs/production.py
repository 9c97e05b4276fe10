"""What is, and was, in service: numbered records under `production/`, each written once and never changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import orjson

from jobs.contracts.artifacts import production_key
from jobs.contracts.errors import IntegrityError
from jobs.contracts.records import Json
from jobs.contracts.store import Store
from jobs.items import StoreItems


@dataclass(frozen=True, slots=True)
class Production:
    """From this record on, until the next one, an adapter is in service."""

    seq: int
    """Counts from 1."""
    action: Literal["promote", "rollback"]
    cycle: str
    """The cycle that promoted; of a rollback, the one whose adapter came back."""
    adapter: str | None
    """Key of the adapter's folder in the archive's store; None: the bare base model."""
    sha256: str
    """Digest of the adapter (`jobs.ml.adapters`); empty for the bare base model."""
    window_idx: int
    """The newest window that the adapter has seen."""
    decision: Json = field(default_factory=dict)
    """Delta, interval and reason, as select said them."""


def records(store: Store) -> Iterator[Production]:
    """All records, oldest first; IntegrityError where one is missing between them or is none."""
    names = {one.name for one in fields(Production)}
    for number, key in enumerate(store.list("production/"), 1):
        value = orjson.loads(store.get(key))
        if key != production_key(number) or not names <= value.keys():
            raise IntegrityError("production records do not follow each other", where=f"{store.url}/{key}")
        yield Production(**{name: value[name] for name in names})


def incumbent_of(store: Store, cycle: str) -> Production | None:
    """What was in service when a cycle began: the newest record before that cycle's own; None: nothing yet.

    It stays the same when the cycle's stages are run again after it has promoted.
    """
    newest: Production | None = None
    for record in records(store):
        if record.action == "promote" and record.cycle == cycle:
            break
        newest = record
    return newest


def bring_adapter(store: Store, record: Production, folder: Path) -> Path | None:
    """The adapter's files in a folder on this machine, digests checked; None for the bare base model."""
    if record.adapter is None:
        return None
    prefix, _, name = record.adapter.rpartition("/")
    return StoreItems(store, prefix, folder).bring(name, state=False)
