"""Archived train shards: the newest are active, none is deleted."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from jobs.contracts.errors import InputError, MissingInputError
from jobs.replay.shard_window import choose_active, find_shards, old_train

NAMES = [  # from the oldest to the newest
    "train_7.json",
    "train_10.json",
    "train_2025-09-30.json",
    "train_2025-10-07.jsonl",
    "train_20251104.json",
    "train_2025-11-04_2.json.gz",
    "train_2025-11-04_10.json",
    "train_20251111T101500Z.jsonl",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, name in enumerate(reversed(NAMES)):
        data = b'[{"chunk_id": "c%d", "text": "from %d"}, "both"]' % (i, i)
        if ".jsonl" in name:
            data = b'{"chunk_id": "c%d"}\n"both"\n' % i
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    for other in ("old_train.json", "train.json", "train-00001.json", "train_2025.txt", "shards.json"):
        (tmp_path / other).write_text("[]")
    return tmp_path


def test_shards_are_in_the_order_of_their_dates(folder: Path) -> None:
    assert [shard.path.name for shard in find_shards(folder)] == NAMES


def test_the_newest_are_active(folder: Path) -> None:
    window = choose_active(find_shards(folder), keep=5)
    assert [shard.path.name for shard in window.active] == NAMES[3:]
    assert [shard.path.name for shard in window.archived] == NAMES[:3]
    assert [one["file"] for one in window.listing()["archived"]] == NAMES[:3]


def test_no_more_than_there_are(folder: Path) -> None:
    assert len(choose_active(find_shards(folder), keep=99).active) == len(NAMES)
    assert choose_active([], keep=5).active == []


def test_bytes_are_bounded_and_the_newest_stays(folder: Path) -> None:
    shards = find_shards(folder)
    two = shards[-1].num_bytes + shards[-2].num_bytes
    assert len(choose_active(shards, 5, max_bytes=two).active) == 2
    assert len(choose_active(shards, 5, max_bytes=two - 1).active) == 1
    assert choose_active(shards, 5, max_bytes=1).active == shards[-1:]


def test_old_train_holds_each_chunk_once(folder: Path) -> None:
    records = list(old_train(choose_active(find_shards(folder), keep=3)))
    assert records == [
        {"chunk_id": "c2", "text": "from 2"},
        "both",
        {"chunk_id": "c1", "text": "from 1"},
        {"chunk_id": "c0"},
    ]


def test_what_is_no_shard(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        find_shards(tmp_path / "none")
    (tmp_path / "train_1.json").write_text('[{"text": "?"}]')
    with pytest.raises(InputError, match=r"train_1\.json: a record without a chunk_id"):
        list(old_train(choose_active(find_shards(tmp_path), 5)))
