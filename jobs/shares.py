"""A stage that several machines do: each leaves its share in the store, and one puts the shares together.

A share is one object, whole or not there, which says what it was made from; doing it again leaves the same bytes.
A share of other inputs or settings does not count.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import orjson

from jobs.assignments.archive import Archive
from jobs.contracts import formats, stages
from jobs.contracts.artifacts import share_key
from jobs.contracts.errors import IntegrityError, MissingInputError
from jobs.contracts.records import Json
from jobs.contracts.shares import Gathering, Share
from jobs.files import scratch_folder
from jobs.runner import FINISHED_BEFORE, Place, settings_json
from jobs.stages import Inputs


def run_share(
    stage: str, config: Any, archive: Archive, *, cycle: str, attempt: int, share: Share, again: bool = False
) -> Json:
    """Do a share of a stage's work, unless it is there; what is to be told of it. Raises what the stage raises."""
    place = Place(archive.store, stages.stage(stage), cycle, attempt)
    needed, digests = place.inputs()
    made_from = _made_from(config, digests)
    told: Json = {"share": str(share)}
    if not again and _read(place, share, made_from) is not None:
        return told | {FINISHED_BEFORE: True}
    with scratch_folder(f"refrain-{stage}-") as scratch:
        inputs = Inputs(place.bring(needed, scratch), archive, cycle, attempt=attempt)
        part = import_module(place.row.module).share(config, inputs, share)
    archive.store.put(_key(place, share), orjson.dumps(made_from | {"part": part}, option=orjson.OPT_INDENT_2))
    return told


def read_shares(
    stage: str, config: Any, archive: Archive, *, cycle: str, attempt: int, gathering: Gathering
) -> list[Json | None]:
    """The shares of a stage's work, None for one of the lost that is not there; MissingInputError for any other."""
    num = gathering.num
    place = Place(archive.store, stages.stage(stage), cycle, attempt)
    made_from = _made_from(config, place.inputs()[1])
    parts = []
    for index in range(num):
        part = _read(place, Share(index, num), made_from)
        if part is None and index not in gathering.lost:
            raise MissingInputError(
                f"share {index} of {num} of {stage} has not finished",
                where=f"{archive.store.url}/{_key(place, Share(index, num))}",
                hint=f"run it: refrain run CYCLE.YAML --only {stage} --share {index}/{num}",
            )
        parts.append(part)
    return parts


def _made_from(config: Any, digests: dict[str, str]) -> Json:
    return {"format": formats.SHARE, "config": settings_json(config), "inputs": digests}


def _key(place: Place, share: Share) -> str:
    return share_key(place.cycle, place.row.name, share.index, share.num, place.own_attempt)


def _read(place: Place, share: Share, made_from: Json) -> Json | None:
    """What is in a share; None where it is not there, or was made from something else."""
    key = _key(place, share)
    if not place.store.exists(key):
        return None
    try:
        said = orjson.loads(place.store.get(key))
        part: Json = said.pop("part")
    except (orjson.JSONDecodeError, KeyError, AttributeError) as error:
        hint = "delete it, and it is made once more"
        raise IntegrityError("the share is damaged", where=f"{place.store.url}/{key}", hint=hint) from error
    return part if said == made_from else None
