"""What is, and was, in service: numbered records under `production/`, each written once and never changed.

A record is appended on condition that its number is free: of several writers one wins, and the others look
again at what is in service before they go on. A rollback is a record too; nothing is ever deleted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

import orjson

from jobs.contracts.artifacts import MARKER, production_key
from jobs.contracts.errors import ConfigError, IntegrityError, MissingInputError, OutputError
from jobs.contracts.records import Json
from jobs.contracts.store import Store
from jobs.files import output_error
from jobs.items import COMPLETE, StoreItems

NO_ADAPTER = ""
"""Digest that stands for the bare base model."""


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
        value = _record(store.get(key))
        if key != production_key(number) or not names <= value.keys():
            raise IntegrityError("production records do not follow each other", where=f"{store.url}/{key}")
        yield Production(**{name: value[name] for name in names})


def _record(data: bytes) -> Json:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


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


def require_adapter(store: Store, key: str, scratch: Path) -> Path:
    """The files of an adapter in the store, brought to a folder and checked against what training wrote.

    MissingInputError where it is not there (any more), IntegrityError where a file or a digest is another.
    """
    prefix, _, name = key.rpartition("/")
    try:
        folder = StoreItems(store, prefix, scratch).bring(name, state=False)
    except MissingInputError as error:
        raise MissingInputError(
            "the adapter is not there, or not whole", where=f"{store.url}/{key}", hint=f"missing: {error.where}"
        ) from error
    marker = f"{prefix.rpartition('/')[0]}/{MARKER}"
    if store.exists(marker):
        items = orjson.loads(store.get(marker))["outputs"].get("checkpoints", {}).get("items", {})
        if items.get(name) != hashlib.sha256((folder / COMPLETE).read_bytes()).hexdigest():
            raise IntegrityError("the adapter is not the one that training wrote", where=f"{store.url}/{key}")
    return folder


def promote(store: Store, promotion: Production, incumbent: str) -> Production:
    """Put an adapter into service, and give the record; a cycle that has promoted before adds none.

    `promotion` has no number yet; `incumbent` is the digest of what it was held against. ConfigError where
    something else is in service by now, or where the cycle has promoted another adapter.
    """
    while True:
        known = list(records(store))
        for record in known:
            if record.action == "promote" and record.cycle == promotion.cycle:
                return _same(record, promotion, store)
        in_service = known[-1].sha256 if known else NO_ADAPTER
        if in_service != incumbent:
            raise ConfigError(
                f"{_named(in_service)} is in service, but the decision compared with {_named(incumbent)}",
                where=store.url,
                hint="run evaluate and select of this cycle with --again",
            )
        record = replace(promotion, seq=len(known) + 1)
        if append(store, record):
            return record


def append(store: Store, record: Production) -> bool:
    """Write a record under its number: False where somebody else has taken it."""
    return store.put_if_absent(production_key(record.seq), orjson.dumps(asdict(record), option=orjson.OPT_INDENT_2))


def _same(record: Production, promotion: Production, store: Store) -> Production:
    if record.sha256 == promotion.sha256:
        return record
    raise ConfigError(
        f"cycle {record.cycle} has put {_named(record.sha256)} into service, not {_named(promotion.sha256)}",
        where=f"{store.url}/{production_key(record.seq)}",
        hint="what was promoted stays: train under another cycle's name",
    )


def rollback_target(known: list[Production], to: int | None = None) -> Production:
    """What a rollback brings back: the state that a record left, or the one before what is in service came.

    That of record 0 is the bare base model. MissingInputError where there is nothing to go back to.
    """
    if not known or (to is None and known[-1].adapter is None):
        raise MissingInputError("no adapter is in service: there is nothing to roll back", where="production/")
    if to is None:
        came = next(one for one in known if one.action == "promote" and one.sha256 == known[-1].sha256)
        to = came.seq - 1
    if not 0 <= to <= len(known):
        hint = f"records 1 to {len(known)}, and 0 for the bare base model: see --history"
        raise MissingInputError(f"there is no production record {to}", where="--to", hint=hint)
    return known[to - 1] if to else Production(0, "promote", "", None, NO_ADAPTER, -1)


def roll_back(store: Store, target: Production) -> tuple[Production, bool]:
    """Bring a former state back, and whether that took a new record; none where it is in service already."""
    while True:
        known = list(records(store))
        if known and known[-1].sha256 == target.sha256:
            return known[-1], False
        decision: Json = {"reason": "Rollback", "from": known[-1].seq if known else 0, "to": target.seq}
        record = replace(target, seq=len(known) + 1, action="rollback", decision=decision)
        if append(store, record):
            return record, True


def _named(sha256: str) -> str:
    return f"adapter {sha256[:12]}…" if sha256 else "the bare base model"


def move_link(link: Path, target: Path | None) -> None:
    """Make a link name a target, atomically, whatever it named before; None removes it.

    It is relative, so that the folder that holds both may be moved. OutputError, also for what is no link.
    """
    if os.path.lexists(link) and not link.is_symlink():
        raise OutputError("there is something that is no link", where=str(link), hint="name another --link")
    try:
        if target is None:
            link.unlink(missing_ok=True)
            return
        link.parent.mkdir(parents=True, exist_ok=True)
        unfinished = link.with_name(f".{link.name}.{os.getpid()}")
        unfinished.unlink(missing_ok=True)
        unfinished.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()))
        unfinished.replace(link)
    except OSError as error:
        raise output_error(link, error) from error


_HEADS = ("seq", "action", "cycle", "window", "delta", "digest")


def history_table(store: Store) -> Iterator[str]:
    """Lines for a terminal: every record, and, at their windows, the cycles that promoted nothing, with the reason."""
    rows = [_row_of(record) for record in records(store)]
    promoted = {row[2] for row in rows if row[1] == "promote"}
    for key in store.list("history/"):
        ended = _record(store.get(key))
        if ended.get("outcome") != "Promoted" and ended.get("cycle") not in promoted:
            first = ("", "kept out", ended.get("cycle"), ended.get("window_idx"))
            row = _row(first, ended.get("delta"), ended.get("reason"))
            place = next((n for n, one in enumerate(rows) if _window(one) > _window(row)), len(rows))
            rows.insert(place, row)
    widths = [max(len(row[column]) for row in [_HEADS, *rows]) for column in range(len(_HEADS))]
    newest = max((int(row[0]) for row in rows if row[0]), default=0)
    for row in [_HEADS, *rows]:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        yield f"{line}  <- in service" if row[0] == str(newest) else line


def _window(row: tuple[str, ...]) -> int:
    return int(row[3]) if row[3].isdecimal() and row[1] != "rollback" else -1


def _row_of(record: Production) -> tuple[str, ...]:
    window = record.window_idx if record.adapter else None
    digest = record.sha256[:16] if record.adapter else "the bare base model"
    return _row((record.seq, record.action, record.cycle, window), record.decision.get("delta"), digest)


def _row(first: tuple[object, ...], delta: object, last: object) -> tuple[str, ...]:
    shown = f"{delta:+.2%}" if isinstance(delta, float) else "-"
    return (*("-" if one is None else str(one) for one in first), shown, str(last or "-"))
