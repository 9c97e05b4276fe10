"""What a finished cycle and old ones lose, so that an archive does not grow by every checkpoint ever made.

Of each finished cycle the newest checkpoints stay, and of all cycles but the newest ones nothing but
how they ended (`finished.json`). Whatever is in the production records stays: the adapter in service,
and those before it, which a rollback brings back, each with what it was trained on (`exposures.json`). So
do all cycles that have not ended. Nothing outside `cycles/` is ever touched.

An item's marker goes before its files, and of a cycle that is just ending nothing goes that tells how it has
ended: killed anywhere, nothing that counts is damaged, and the next clean-up does the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from jobs.contracts.artifacts import ARTIFACTS, exposures_key, finished_key
from jobs.contracts.cycle.data import Retention
from jobs.contracts.store import Store
from jobs.items import COMPLETE, STATE
from jobs.local.status import Status, read_status
from jobs.production import records

_PREFIX = "cycles/"
_ITEM = re.compile(rf"^(cycles/[^/]+/(?:retrain-(\d+)/)?train/{ARTIFACTS['checkpoints'].filename}/([^/]+))/")
_NUMBER = re.compile(r"\d+")


def clean_up(store: Store, retention: Retention, ending: tuple[str, Status] | None = None) -> int:
    """Delete what retention does not keep; the number of objects.

    `ending` is a cycle that has ended, and how, though that is not written down yet.
    """
    num_deleted = 0
    for key in to_delete(store, retention, ending):
        store.delete(key)
        num_deleted += 1
    return num_deleted


def to_delete(store: Store, retention: Retention, ending: tuple[str, Status] | None = None) -> list[str]:
    """The keys that retention does not keep, in an order in which any number of them may be deleted."""
    ended = sorted(_ended_cycles(store, ending))
    in_service = {record.adapter for record in records(store) if record.adapter}
    old = [cycle for cycle in ended[: -retention.cycles] if ending is None or cycle.name != ending[0]]
    kept = [cycle for cycle in ended if cycle not in old]
    return [
        *(key for cycle in old for key in _of_old_cycle(cycle, in_service)),
        *(key for cycle in kept for key in _of_checkpoints(cycle, in_service, retention.checkpoints)),
    ]


@dataclass(frozen=True, order=True)
class _Cycle:
    """A cycle that has ended; they are ordered by their windows, then by the numbers in their names."""

    window_idx: int
    numbers: tuple[int, ...]
    name: str
    keys: tuple[str, ...]
    winner: str | None
    """Key of the checkpoint that was chosen."""


def _ended_cycles(store: Store, ending: tuple[str, Status] | None) -> Iterator[_Cycle]:
    for name, group in groupby(store.list(_PREFIX), key=lambda key: key.split("/")[1]):
        keys = tuple(group)
        status = ending[1] if ending and ending[0] == name else None
        if finished_key(name) in keys:
            status = read_status(store, name)
        if status is not None:
            winner = ((status.result("select") or {}).get("winner") or {}).get("key")
            numbers = tuple(int(number) for number in _NUMBER.findall(name))
            yield _Cycle((status.result("window") or {})["window_idx"], numbers, name, keys, winner)


def _of_old_cycle(cycle: _Cycle, in_service: set[str]) -> Iterator[str]:
    """All of a cycle but how it ended, and the adapters in the production records with what they were trained on."""
    trained_on = {exposures_key(adapter) for adapter in in_service}
    for key in _markers_first(cycle.keys):
        item = _ITEM.match(key)
        kept = item and item[1] in in_service and not key.startswith(f"{item[1]}/{STATE}/")
        if key != finished_key(cycle.name) and not kept and key not in trained_on:
            yield key


def _of_checkpoints(cycle: _Cycle, in_service: set[str], num_kept: int) -> Iterator[str]:
    """The checkpoints of a cycle but the newest of its attempts, the winner and those in the production records."""
    items: dict[str, list[str]] = {}
    for key in cycle.keys:
        if item := _ITEM.match(key):
            items.setdefault(item[1], []).append(key)
    complete = sorted((name for name in items if f"{name}/{COMPLETE}" in items[name]), key=_age)
    kept = {*complete[-num_kept:], *in_service, cycle.winner}
    for name, keys in items.items():
        if name not in kept:
            yield from _markers_first(tuple(keys))


def _age(item: str) -> tuple[int, list[int], str]:
    """By attempt, then by step."""
    match = _ITEM.match(f"{item}/")
    assert match is not None
    return int(match[2] or 0), [int(number) for number in _NUMBER.findall(match[3])], match[3]


def _markers_first(keys: tuple[str, ...]) -> list[str]:
    """Keys with the markers before what they stand for."""
    return sorted(keys, key=lambda key: (not key.rpartition("/")[2].startswith("_"), key))
