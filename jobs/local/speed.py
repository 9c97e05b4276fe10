"""How fast training was, as measured here: the next cycle's plan is reckoned from it. No artifact."""

from __future__ import annotations

import orjson

from jobs.contracts.artifacts import SPEED_KEY
from jobs.contracts.records import Json
from jobs.contracts.store import Store

_LEAST_SECONDS = 0.001


def note_speed(store: Store, trained: Json, seconds: float) -> None:
    """Keep how many tokens a second a training has done that ran from its start to its end; loading counts too.

    `trained` is the stage's result.
    """
    speed = {"train": {"tokens_per_second": round(trained["num_tokens"] / max(seconds, _LEAST_SECONDS), 1)}}
    store.put(SPEED_KEY, orjson.dumps(speed, option=orjson.OPT_INDENT_2))


def tokens_per_second(store: Store) -> float | None:
    """How fast the archive's last training was; None where none has been measured."""
    if not store.exists(SPEED_KEY):
        return None
    speed: float = orjson.loads(store.get(SPEED_KEY))["train"]["tokens_per_second"]
    return speed
