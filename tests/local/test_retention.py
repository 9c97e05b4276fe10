"""Retention: what goes, what never goes, and that no moment in between does harm."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest

from jobs.contracts.artifacts import finished_key, history_key, production_key
from jobs.contracts.cycle.data import Retention
from jobs.contracts.folder_store import FolderStore
from jobs.contracts.store import Store
from jobs.items import COMPLETE, StoreItems
from jobs.local.retention import clean_up, to_delete
from jobs.local.status import Status
from jobs.production import bring_adapter, records

OTHERS = ("assignments/00000000000000000001.jsonl", "base.json", "chunks/000000/train-ab.jsonl.zst", "index/part.npz")


def checkpoints_of(cycle: str, attempt: int = 0) -> str:
    return f"cycles/{cycle}/{f'retrain-{attempt}/' if attempt else ''}train/checkpoints"


def put_checkpoint(store: Store, folder: Path, cycle: str, step: int, attempt: int = 0) -> str:
    item = folder / cycle / str(attempt) / f"step_{step}"
    (item / "training_state").mkdir(parents=True)
    (item / "adapter_model.safetensors").write_bytes(f"{cycle} {attempt} {step}".encode())
    (item / "training_state" / "optimizer.safetensors").write_bytes(b"state")
    items = StoreItems(store, checkpoints_of(cycle, attempt), item.parent)
    items.publish(item.name)
    return f"{checkpoints_of(cycle, attempt)}/{item.name}"


def put_cycle(
    store: Store, folder: Path, cycle: str, window_idx: int, *, steps: Iterable[int] = (1, 2, 3), **facts: Any
) -> None:
    """A cycle that has ended, or not, with its artifacts and their markers."""
    for attempt in range(facts.get("attempts", 1)):
        for step in steps:
            put_checkpoint(store, folder, cycle, step, attempt)
        further = f"retrain-{attempt}/" if attempt else ""
        for stage, name in (
            ("sample", "epoch_schedule.json"),
            ("train", "trainer_state.json"),
            ("train", "exposures.json"),
        ):
            store.put(f"cycles/{cycle}/{further}{stage}/{name}", b"{}")
            store.put(f"cycles/{cycle}/{further}{stage}/_SUCCESS.json", b"{}")
    stages = [{"name": "window", "result": {"window_idx": window_idx}}]
    if facts.get("winner"):
        stages.append({"name": "select", "result": {"winner": {"key": facts["winner"]}}})
    if facts.get("ended", True):
        store.put(finished_key(cycle), orjson.dumps({"state": "Promoted", "message": "", "stages": stages}))
        store.put(history_key(window_idx, cycle), b"{}")


def put_production(store: Store, *adapters: str | None) -> None:
    for number, adapter in enumerate(adapters, 1):
        record = {
            "seq": number,
            "action": "promote",
            "cycle": adapter.split("/")[1] if adapter else "",
            "adapter": adapter,
            "sha256": "",
            "window_idx": 0,
            "decision": {},
        }
        store.put(production_key(number), orjson.dumps(record))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = FolderStore(tmp_path / "store")
    for key in OTHERS:
        store.put(key, key.encode())
    return store


def items(store: Store, cycle: str, attempt: int = 0) -> list[str]:
    return StoreItems(store, checkpoints_of(cycle, attempt), Path()).names()


def test_the_newest_checkpoints_the_winner_and_what_was_in_service_stay(store: Store, tmp_path: Path) -> None:
    steps = (8, 9, 10, 11, 100)
    put_cycle(store, tmp_path, "w1", 1, steps=steps, winner=f"{checkpoints_of('w1')}/step_9")
    put_production(store, f"{checkpoints_of('w1')}/step_8")
    clean_up(store, Retention(checkpoints=2))
    assert items(store, "w1") == ["step_8", "step_9", "step_11", "step_100"]
    assert not [key for key in store.list("cycles/") if "/step_10/" in key]


def test_the_checkpoints_of_all_attempts_count_together(store: Store, tmp_path: Path) -> None:
    put_cycle(store, tmp_path, "w1", 1, steps=(5, 6), attempts=3)
    clean_up(store, Retention(checkpoints=3))
    assert [items(store, "w1", attempt) for attempt in range(3)] == [[], ["step_6"], ["step_5", "step_6"]]


def test_old_cycles_keep_how_they_ended_and_what_was_in_service(store: Store, tmp_path: Path) -> None:
    for number in (8, 9, 10, 11):
        put_cycle(store, tmp_path, f"week-{number}", 20 + number)
    in_service = f"{checkpoints_of('week-8')}/step_2"
    put_production(store, in_service, None, f"{checkpoints_of('week-11')}/step_1")
    others = {key: store.get(key) for key in store.list() if not key.startswith("cycles/")}
    clean_up(store, Retention(checkpoints=9, cycles=2))
    kept = [key for key in store.list("cycles/") if key.split("/")[1] in ("week-8", "week-9")]
    adapter = [f"{in_service}/{name}" for name in (COMPLETE, "adapter_model.safetensors")]
    trained_on = "cycles/week-8/train/exposures.json"
    assert sorted(kept) == sorted([*adapter, trained_on, finished_key("week-8"), finished_key("week-9")])
    assert items(store, "week-10") == items(store, "week-11") == ["step_1", "step_2", "step_3"]
    assert {key: store.get(key) for key in store.list() if not key.startswith("cycles/")} == others


def test_what_a_promoted_attempt_was_trained_on_stays(store: Store, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        put_cycle(store, tmp_path, f"w{number}", number, attempts=3)
    put_production(store, f"{checkpoints_of('w1', 2)}/step_3")
    clean_up(store, Retention(checkpoints=1, cycles=1))
    assert [key for key in store.list("cycles/") if key.endswith("exposures.json") and "/w3/" not in key] == [
        "cycles/w1/retrain-2/train/exposures.json"
    ]


def test_cycles_that_have_not_ended_are_left_alone(store: Store, tmp_path: Path) -> None:
    put_cycle(store, tmp_path, "begun", 1, steps=range(1, 9), ended=False)
    for number in range(2, 6):
        put_cycle(store, tmp_path, f"w{number}", number)
    before = list(store.list("cycles/begun/"))
    clean_up(store, Retention(checkpoints=1, cycles=1))
    assert list(store.list("cycles/begun/")) == before


def test_the_order_of_cycles_is_that_of_their_windows(store: Store, tmp_path: Path) -> None:
    put_cycle(store, tmp_path, "a-newest", 9)
    put_cycle(store, tmp_path, "z-oldest", 1)
    put_cycle(store, tmp_path, "same-9", 5)
    put_cycle(store, tmp_path, "same-10", 5)
    clean_up(store, Retention(checkpoints=9, cycles=2))
    assert [bool(items(store, name)) for name in ("a-newest", "same-10", "same-9", "z-oldest")] == [
        True,
        True,
        False,
        False,
    ]


def test_what_a_killed_writer_left_of_a_checkpoint_goes_too(store: Store, tmp_path: Path) -> None:
    put_cycle(store, tmp_path, "w1", 1)
    store.delete(f"{checkpoints_of('w1')}/step_3/{COMPLETE}")
    clean_up(store, Retention(checkpoints=2))
    assert items(store, "w1") == ["step_1", "step_2"]
    assert not [key for key in store.list() if "step_3" in key]


def test_a_cycle_that_is_just_ending(store: Store, tmp_path: Path) -> None:
    """It counts as ended, but loses nothing that tells how: that is not written down yet."""
    put_cycle(store, tmp_path, "w1", 1, ended=False)
    put_cycle(store, tmp_path, "w2", 2)
    status = Status("Promoted", None, [{"name": "window", "result": {"window_idx": 1}}])
    clean_up(store, Retention(checkpoints=1, cycles=1), ("w1", status))
    assert items(store, "w1") == items(store, "w2") == ["step_3"]
    assert store.exists("cycles/w1/train/_SUCCESS.json")
    put_cycle(store, tmp_path / "3", "w3", 3, ended=False)
    status.stages[0]["result"]["window_idx"] = 3
    clean_up(store, Retention(checkpoints=1, cycles=1), ("w3", status))
    assert list(store.list("cycles/w2/")) == [finished_key("w2")]


def test_a_second_time_there_is_nothing_to_delete(store: Store, tmp_path: Path) -> None:
    for number in range(4):
        put_cycle(store, tmp_path, f"w{number}", number)
    assert clean_up(store, Retention(checkpoints=1, cycles=1)) > 0
    assert clean_up(store, Retention(checkpoints=1, cycles=1)) == 0


class KilledError(Exception):
    pass


class KillingStore:
    """A store that records what is deleted, and dies after so many deletes."""

    def __init__(self, store: Store, after: int) -> None:
        self.deleted: list[str] = []
        self._store, self._after = store, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def delete(self, key: str) -> None:
        if len(self.deleted) == self._after:
            raise KilledError
        self._store.delete(key)
        self.deleted.append(key)


def big(store: Store, folder: Path) -> Store:
    """Five cycles; in service first an adapter of the oldest, then one of the middle."""
    for number in range(5):
        put_cycle(
            store,
            folder,
            f"w{number}",
            number,
            attempts=1 + number % 2,
            winner=f"{checkpoints_of(f'w{number}')}/step_2",
        )
    put_production(store, f"{checkpoints_of('w0')}/step_2", f"{checkpoints_of('w2')}/step_2")
    return store


def require_sound(store: Store, folder: Path) -> None:
    """All that ever was in service is whole; no marker stands for what is not there."""
    for number, record in enumerate(records(store)):
        assert bring_adapter(store, record, folder / str(number)) is not None
    keys = set(store.list())
    for key in keys:
        if key.endswith(COMPLETE) and "/w0/" not in key and "/w2/" not in key:
            files = orjson.loads(store.get(key))["files"]
            assert {f"{key.removesuffix(COMPLETE)}{name}" for name in files} <= keys
        if key.endswith("train/_SUCCESS.json"):
            assert key.replace("_SUCCESS", "trainer_state") in keys
    assert {finished_key(f"w{number}") for number in range(5)} | set(OTHERS) <= keys


def test_killed_after_any_delete_and_run_again(store: Store, tmp_path: Path) -> None:
    retention = Retention(checkpoints=1, cycles=2)
    planned = to_delete(big(store, tmp_path / "made"), retention)
    assert len(planned) > 40
    shutil.copytree(tmp_path / "store", tmp_path / "before")
    clean_up(store, retention)
    expected = sorted(store.list())
    for after in range(len(planned)):
        folder = tmp_path / str(after)
        shutil.copytree(tmp_path / "before", folder / "store")
        store = FolderStore(folder / "store")
        killing = KillingStore(store, after)
        with pytest.raises(KilledError):
            clean_up(killing, retention)
        assert killing.deleted == planned[:after]
        require_sound(store, folder / "brought")
        clean_up(store, retention)
        assert sorted(store.list()) == expected
        require_sound(store, folder / "again")


def test_a_production_record_that_is_damaged_stops_it_before_anything_goes(store: Store, tmp_path: Path) -> None:
    from jobs.contracts.errors import IntegrityError

    put_cycle(store, tmp_path, "w1", 1)
    put_production(store, None)
    store.put(production_key(7), b"{}")
    before = list(store.list())
    with pytest.raises(IntegrityError):
        clean_up(store, Retention(checkpoints=1))
    assert list(store.list()) == before
