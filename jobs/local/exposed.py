"""Which adapters have seen a mail: by what each training has counted, and by what it went on from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import orjson

from jobs.contracts.artifacts import ARTIFACTS, exposures_key
from jobs.contracts.records import Json
from jobs.contracts.store import Store
from jobs.contracts.words import counted
from jobs.production import NO_ADAPTER, Production, records

_EXPOSURES = re.compile(rf"cycles/([^/]+)/(?:retrain-([0-9]+)/)?train/{re.escape(ARTIFACTS['exposures'].filename)}")


@dataclass(frozen=True, slots=True)
class Exposed:
    """A training that has seen a mail, or of which that is not known."""

    cycle: str
    attempt: int
    production: tuple[int, ...] = ()
    """The production records that put an adapter of it into service."""
    times_target: int = 0
    times_context: int = 0
    """How often the mail was read without being a target."""
    went_on_from: str = ""
    """The cycle whose adapter had seen it, and which this one went on from."""
    is_known: bool = True
    """False where it is not known what it, or what it went on from, was trained on."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """What has seen a mail."""

    adapters: list[Exposed]
    """Those in production records first, in their order; then those that never came into service."""
    newest_clean: int | None
    """The newest production record whose adapter is known not to have seen it, 0 for the bare base model; None where
    what is in service has not seen it."""


def exposure_of(store: Store, digest: str) -> Exposure:
    """The adapters that were trained on a mail (short digest of its id), and those that went on from such a one.

    They are those of trainings whose exposures.json is there: of what is, or was, in service it stays. What is
    counted is a whole training: a checkpoint from its midst may have seen less.
    """
    production = list(records(store))
    made_by = {record.sha256: exposures_key(record.adapter) for record in production if record.adapter}
    seen: dict[str, Exposed] = {}  # by the key of what the training has counted
    for key in _trainings(store, made_by.values()):
        counts: Json = orjson.loads(store.get(key)) if store.exists(key) else {}
        start = counts.get("starts_from")
        before = seen.get(made_by.get(start or "", ""))
        is_known = start == NO_ADAPTER or (start in made_by and (before is None or before.is_known))
        if (one := _exposed(key, counts, digest, before, is_known=is_known)) is not None:
            seqs = (record.seq for record in production if record.adapter and exposures_key(record.adapter) == key)
            seen[key] = replace(one, production=tuple(seqs))
    return Exposure(list(seen.values()), _newest_clean(production, seen))


def _exposed(key: str, counts: Json, digest: str, before: Exposed | None, *, is_known: bool) -> Exposed | None:
    """What a training has seen of a mail by its own counts, and by the one that it went on from; None: nothing."""
    match = _EXPOSURES.fullmatch(key)
    assert match is not None
    target, context = (int(counts.get(role, {}).get(digest, 0)) for role in ("messages", "context"))
    if not target and not context and before is None and is_known:
        return None
    return Exposed(
        match[1],
        int(match[2] or 0),
        times_target=target,
        times_context=context,
        went_on_from=before.cycle if before is not None and before.is_known else "",
        is_known=is_known or target + context > 0,
    )


def _trainings(store: Store, promoted: Iterable[str]) -> dict[str, None]:
    """The keys of all exposures, each behind those of what its training may have gone on from."""
    in_order = dict.fromkeys(promoted)
    return in_order | dict.fromkeys(key for key in store.list("cycles/") if _EXPOSURES.fullmatch(key))


def _newest_clean(production: Sequence[Production], seen: dict[str, Exposed]) -> int | None:
    def is_clean(record: Production) -> bool:
        return record.adapter is None or exposures_key(record.adapter) not in seen

    if not production or is_clean(production[-1]):
        return None
    return next((record.seq for record in reversed(production) if is_clean(record)), 0)


def exposure_rows(exposure: Exposure) -> Iterator[tuple[str, str]]:
    """It as people read it: a label and a text for each line."""
    for one in exposure.adapters:
        seqs = ", ".join(map(str, one.production))
        where = f"production record {seqs}" if seqs else "never in service"
        name = f"cycle {one.cycle}{f', attempt {one.attempt + 1}' if one.attempt else ''} ({where})"
        yield ("trained", f"{name}: {_why(one)}") if one.is_known else ("not known", f"{name}: {_UNKNOWN}")
    if exposure.newest_clean is not None:
        back = f"promote --rollback --to {exposure.newest_clean}"
        to = "the newest that has not" if exposure.newest_clean else "the bare base model"
        yield "rollback", f"what is in service has seen it, or may have; `{back}` brings back {to}"


_UNKNOWN = "what it, or what it went on from, was trained on has been deleted"


def _why(one: Exposed) -> str:
    roles = ((one.times_target, "a target"), (one.times_context, "context"))
    parts = [f"{role} {counted(times, 'time')}" for times, role in roles if times]
    parts += [f"it went on from that of {one.went_on_from}"] if one.went_on_from else []
    return "; ".join(parts)
