"""Which adapters have seen a mail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from jobs.contracts.artifacts import artifact_key, exposures_key
from jobs.contracts.folder_store import FolderStore
from jobs.contracts.store import Store
from jobs.local.exposed import Exposed, exposure_of, exposure_rows
from jobs.production import Production, append

MAIL, OTHER = "a" * 32, "b" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return FolderStore(tmp_path / "store")


def train(store: Store, cycle: str, attempt: int = 0, **counted: Any) -> None:
    """A training that has counted this."""
    said = {"messages": {OTHER: 1}, "context": {}, "starts_from": ""} | counted
    store.put(artifact_key(cycle, "train", "exposures", attempt), orjson.dumps(said))


def promote(store: Store, cycle: str, attempt: int = 0, *, action: Any = "promote") -> None:
    """Its adapter comes into service; its digest is the cycle's name."""
    seq = len(list(store.list("production/"))) + 1
    adapter = f"{artifact_key(cycle, 'train', 'checkpoints', attempt)}/step_4"
    assert append(store, Production(seq, action, cycle, adapter, cycle, seq))


def bare(store: Store) -> None:
    seq = len(list(store.list("production/"))) + 1
    assert append(store, Production(seq, "rollback", "", None, "", -1))


def test_where_an_adapter_s_exposures_lie() -> None:
    for attempt in (0, 2):
        adapter = f"{artifact_key('w1', 'train', 'checkpoints', attempt)}/step_4"
        assert exposures_key(adapter) == artifact_key("w1", "train", "exposures", attempt)


def test_targets_context_and_successors(store: Store) -> None:
    train(store, "w1")
    promote(store, "w1")
    train(store, "w2", messages={MAIL: 6}, context={MAIL: 3}, starts_from="w1")
    promote(store, "w2")
    train(store, "w3", starts_from="w2")
    promote(store, "w3")
    train(store, "w4", attempt=1, context={MAIL: 1}, starts_from="w3")
    train(store, "w5", starts_from="w1")
    train(store, "w6")  # afresh
    found = exposure_of(store, MAIL)
    assert found.adapters == [
        Exposed("w2", 0, (2,), 6, 3),
        Exposed("w3", 0, (3,), went_on_from="w2"),
        Exposed("w4", 1, (), 0, 1, went_on_from="w3"),
    ]
    assert found.newest_clean == 1
    *rows, (label, back) = exposure_rows(found)
    assert label == "rollback"
    assert back.endswith("`promote --rollback --to 1` brings back the newest that has not")
    assert rows == [
        ("trained", "cycle w2 (production record 2): a target 6 times; context 3 times"),
        ("trained", "cycle w3 (production record 3): it went on from that of w2"),
        ("trained", "cycle w4, attempt 2 (never in service): context 1 time; it went on from that of w3"),
    ]
    assert exposure_of(store, "c" * 32).adapters == []


def test_what_came_back_counts_under_every_record(store: Store) -> None:
    train(store, "w1", messages={MAIL: 1})
    promote(store, "w1")
    train(store, "w2", attempt=1)
    promote(store, "w2", attempt=1)
    assert exposure_of(store, MAIL).newest_clean is None
    promote(store, "w1", action="rollback")
    found = exposure_of(store, MAIL)
    assert found.adapters == [Exposed("w1", 0, (1, 3), 1)]
    assert found.newest_clean == 2
    bare(store)
    train(store, "w5", starts_from="w1")
    found = exposure_of(store, MAIL)
    assert [one.cycle for one in found.adapters] == ["w1", "w5"]
    assert found.newest_clean is None


def test_with_none_clean_it_is_the_bare_base(store: Store) -> None:
    train(store, "w1", messages={MAIL: 1})
    promote(store, "w1")
    found = exposure_of(store, MAIL)
    assert found.newest_clean == 0
    assert list(exposure_rows(found))[-1][1].endswith("`promote --rollback --to 0` brings back the bare base model")


@pytest.mark.parametrize("gone", ["the file", "its start"])
def test_what_is_not_known_is_told_and_is_not_clean(store: Store, gone: str) -> None:
    train(store, "w1")
    promote(store, "w1")
    train(store, "w2", starts_from="w1")
    promote(store, "w2")
    train(store, "w3", starts_from="w2")
    promote(store, "w3")
    train(store, "w4", messages={MAIL: 2}, starts_from="w3")
    key = artifact_key("w2", "train", "exposures")
    if gone == "the file":
        store.delete(key)
    else:
        store.put(key, orjson.dumps({"messages": {OTHER: 1}}))  # of an archive from before it was counted
    found = exposure_of(store, MAIL)
    assert [(one.cycle, one.is_known) for one in found.adapters] == [("w2", False), ("w3", False), ("w4", True)]
    assert found.newest_clean == 1
    labels = [label for label, _ in exposure_rows(found)]
    assert labels == ["not known", "not known", "trained", "rollback"]


def test_an_archive_without_any_training(store: Store) -> None:
    found = exposure_of(store, MAIL)
    assert (found.adapters, found.newest_clean) == ([], None)
    assert list(exposure_rows(found)) == []
