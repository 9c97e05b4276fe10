"""Markers: what a stage leaves in the store when it has finished, its result in it (written by `jobs.runner`)."""

from __future__ import annotations

import orjson

from jobs.contracts import formats
from jobs.contracts.artifacts import finished_key, marker_key, marker_of
from jobs.contracts.errors import IntegrityError
from jobs.contracts.formats import require_format
from jobs.contracts.progression import Step, comes_behind
from jobs.contracts.records import Json
from jobs.contracts.stages import stage as stage_row
from jobs.contracts.store import Store


def read_marker(store: Store, stage: str, cycle: str, attempt: int = 0) -> Json | None:
    """The marker of a finished stage; None where it has not finished.

    IntegrityError for one that is damaged, or that another version has written in another format.
    """
    key = marker_key(cycle, stage, attempt)
    if not store.exists(key):
        return None
    return _marker(store.get(key), f"{store.url}/{key}", stage)


def _marker(data: bytes, where: str, stage: str) -> Json:
    hint = f"delete it, and {stage} runs once more"
    try:
        marker = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise IntegrityError("the marker is damaged", where=where, hint=hint) from error
    if not isinstance(marker, dict):
        raise IntegrityError("not a marker", where=where, hint=hint)
    require_format(marker, formats.MARKER, where, hint)
    return marker


def read_result(store: Store, stage: str, cycle: str, attempt: int = 0) -> Json | None:
    """What a stage gave back in an attempt of a cycle, also where the cycle's end is all that was kept of it.

    None where it has not finished. Stages that no attempt repeats have one result for all.
    """
    is_repeated = stage_row(stage).is_retrained
    marker = read_marker(store, stage, cycle, attempt if is_repeated else 0)
    if marker is not None:
        result: Json = marker["result"]
        return result
    if not store.exists(finished_key(cycle)):
        return None
    told: list[Json] = orjson.loads(store.get(finished_key(cycle)))["stages"]
    of_stage = (one for one in told if one["name"] == stage and (not is_repeated or one["attempt"] == attempt))
    return next((one["result"] for one in of_stage), None)


def cycles_of(store: Store) -> list[str]:
    """The names of all cycles that have left something in a store, ascending."""
    return sorted({key.split("/")[1] for key in store.list("cycles/")})


def newest_indexed_cycle(store: Store) -> str | None:
    """The cycle whose index is of the newest window; of several, the last by name. None where there is none."""
    newest: tuple[int, str] | None = None
    for key in store.list("cycles/"):
        if marker_of(key) == ("index", 0):
            cycle = key.split("/")[1]
            marker = read_marker(store, "index", cycle)
            found = (int(marker["result"].get("window_idx", -1)), cycle) if marker else None
            newest = max(filter(None, (newest, found)), default=None)
    return newest[1] if newest else None


def forget_after(store: Store, cycle: str, step: Step) -> None:
    """Delete the markers of all that comes behind a stage in a cycle: that stage is to be done anew.

    Artifacts stay, and training goes on from its checkpoints where nothing has changed for it.
    """
    for key in list(store.list(f"cycles/{cycle}/")):
        marker = marker_of(key)
        if marker and comes_behind(Step(*marker), step):
            store.delete(key)
