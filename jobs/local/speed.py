"""How fast stages were, as measured here: the next cycle's plan is reckoned from it. No artifact."""

from __future__ import annotations

from typing import Any

import orjson

from jobs.contracts.artifacts import SPEED_KEY
from jobs.contracts.records import Json
from jobs.contracts.store import Store

_TOKENS = {"train": "num_tokens", "evaluate": "num_tokens"}
"""What a stage's result calls the tokens that went through the model."""
_LEAST_SECONDS = 0.001


def note_speed(store: Store, stage: str, result: Json, seconds: float) -> None:
    """Keep how many tokens a second a stage has just done; nothing for stages whose work is not tokens."""
    num_tokens = result.get(_TOKENS.get(stage, ""))
    if not isinstance(num_tokens, int) or not num_tokens:
        return
    speeds: dict[str, Any] = read_speeds(store)
    speeds[stage] = {"tokens_per_second": round(num_tokens / max(seconds, _LEAST_SECONDS), 1)}
    store.put(SPEED_KEY, orjson.dumps(speeds, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))


def read_speeds(store: Store) -> dict[str, Any]:
    """By stage, what was last measured."""
    speeds: dict[str, Any] = orjson.loads(store.get(SPEED_KEY)) if store.exists(SPEED_KEY) else {}
    return speeds
