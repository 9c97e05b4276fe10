"""What the controller measures of itself, for Prometheus."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable
from typing import get_args

from prometheus_client import Counter, Gauge, Histogram

from jobs.contracts.cycle.status import State

CYCLES = Gauge("refrain_cycles", "Cycles by archive and state.", ["archive", "state"])
RECONCILES = Counter("refrain_reconciles", "Looks at an archive, by how they ended.", ["outcome"])
for _outcome in ("done", "failed", "defect"):
    RECONCILES.labels(_outcome)  # told from 0 on: Prometheus sees no increase in a series that begins with 1
WRITES = Counter("refrain_api_writes", "Writes to the API server, Events aside.", ["kind"])
SECONDS = Histogram("refrain_reconcile_seconds", "Time of one look at an archive, with its reads and writes.")
PLAN_SECONDS = Histogram(
    "refrain_plan_seconds", "Time to plan one cycle.", buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
)

LAST_PROMOTION = Gauge(
    "refrain_last_promotion_timestamp_seconds",
    "When an archive's last promotion ended; where none is known, when the oldest of its cycles was created.",
    ["archive"],
)
LAST_FAILURE = Gauge(
    "refrain_last_failure_timestamp_seconds", "When the last cycle of an archive that failed did so.", ["archive"]
)
_last: dict[tuple[Gauge, str], float] = {}
"""What was told of each archive: that a cycle was retried or deleted since changes nothing of it."""


def note_promotions(archive: str, promoted: Iterable[float], created: Iterable[float]) -> None:
    """When an archive's promoted cycles ended, and when its cycles were created: until one is, the oldest counts."""
    begun = [] if (LAST_PROMOTION, archive) in _last else sorted(created)[:1]
    _note_last(LAST_PROMOTION, archive, [*promoted, *begun])


def note_failures(archive: str, failed: Iterable[float]) -> None:
    """When an archive's failed cycles ended."""
    _note_last(LAST_FAILURE, archive, failed)


def _note_last(gauge: Gauge, archive: str, moments: Iterable[float]) -> None:
    known = [_last[gauge, archive]] if (gauge, archive) in _last else []
    if last := max([*moments, *known], default=0.0):
        _last[gauge, archive] = last
        gauge.labels(archive).set(last)


def note_states(archive: str, states: Iterable[str]) -> None:
    """How many cycles of an archive are in each state."""
    tally = Tally(states)
    for state in get_args(State):
        CYCLES.labels(archive, state).set(tally[state])


def note_write(kind: str) -> None:
    """A write was sent."""
    WRITES.labels(kind).inc()
