"""What a finished stage left in the store: its marker, or the cycle's end alone."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from jobs.contracts.artifacts import finished_key, marker_key
from jobs.contracts.errors import IntegrityError
from jobs.contracts.folder_store import FolderStore
from jobs.contracts.markers import read_marker, read_result


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


def put(store: FolderStore, stage: str, attempt: int = 0) -> None:
    store.put(marker_key("w1", stage, attempt), orjson.dumps({"result": {"told by": f"{stage} {attempt}"}}))


def test_by_the_marker(store: FolderStore) -> None:
    assert read_marker(store, "split", "w1") is None
    assert read_result(store, "split", "w1") is None
    for stage, attempt in (("split", 0), ("train", 0), ("train", 1), ("promote", 0)):
        put(store, stage, attempt)
    assert read_marker(store, "train", "w1", 1) == {"result": {"told by": "train 1"}}
    assert read_result(store, "train", "w1") == {"told by": "train 0"}
    assert read_result(store, "train", "w1", 1) == {"told by": "train 1"}
    assert read_result(store, "train", "w1", 2) is None
    assert read_result(store, "train", "w2") is None
    assert read_result(store, "split", "w1", 1) == {"told by": "split 0"}, "an attempt does not split again"
    assert read_result(store, "promote", "w1", 1) == {"told by": "promote 0"}, "there is one promotion"


def test_by_how_the_cycle_has_ended(store: FolderStore) -> None:
    """Retention deletes the artifacts of old cycles, markers with them."""
    stages = [("parse", 0), ("train", 0), ("train", 1), ("promote", 1)]
    told = [{"name": name, "attempt": attempt, "result": {"told by": f"{name} {attempt}"}} for name, attempt in stages]
    store.put(finished_key("w1"), orjson.dumps({"state": "Promoted", "message": "", "stages": told}))
    assert read_result(store, "train", "w1", 1) == {"told by": "train 1"}
    assert read_result(store, "promote", "w1", 1) == {"told by": "promote 1"}
    assert read_result(store, "evaluate", "w1") is None


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b'{"format": 1, "result": {', "the marker is damaged"),
        (b"", "the marker is damaged"),
        (b"[]", "not a marker"),
        (b'{"format": 2}', "it is of format 2; this version reads 1"),
    ],
)
def test_a_marker_that_cannot_be_read(store: FolderStore, data: bytes, what: str) -> None:
    store.put(marker_key("w1", "split"), data)
    with pytest.raises(IntegrityError, match=what) as raised:
        read_marker(store, "split", "w1")
    assert raised.value.where == f"{store.url}/{marker_key('w1', 'split')}"
    assert "delete it, and split runs once more" in raised.value.hint
