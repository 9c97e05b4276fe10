from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.contracts.errors import InputError, OutputError, UsageError
from jobs.contracts.records import Chunk, ChunkMessage
from jobs.replay.shard_window import choose_active, find_shards, old_train
from jobs.replay.train_shard import require_date, shard_date, sources_of, write_train_shard


def chunk(name: str, date: str = "2025-01-09T10:00:00Z") -> Chunk:
    message = ChunkMessage(f"{name}@example.org", "ann@example.org", date, 0, 4, 2)
    return Chunk(name, name, "train", 3, "ann@example.org", "plan", date, 9, 2, [message], "text")


def test_sources_are_the_schedule_s_and_new_wins() -> None:
    batches = [("new", ["a", "b"]), ("replay", ["c"]), ("new", ["c"]), ("replay", ["d"]), ("replay", ["a"])]
    listed = [{"source": source, "chunk_ids": ids} for source, ids in batches]
    schedule = {"epochs": [{"epoch": 0, "batches": listed[:2]}, {"epoch": 1, "batches": listed[2:]}]}
    assert sources_of(schedule) == {"a": "new", "b": "new", "c": "new", "d": "replay"}


def test_a_shard_is_read_back_by_the_shard_window(tmp_path: Path) -> None:
    chunks = [chunk("d"), chunk("b"), chunk("c")]
    path = write_train_shard(tmp_path / "shards", chunks, {"b": "new", "c": "replay", "d": "new"}, "2025-01-09")
    assert path.name == "train_2025-01-09.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(one["chunk_id"], one["source"]) for one in records] == [("b", "new"), ("d", "new"), ("c", "replay")]
    assert records[0]["messages"][0]["message_id"] == "b@example.org"
    (shard,) = find_shards(tmp_path / "shards")
    assert list(old_train(choose_active([shard], 5))) == records


def test_the_same_again_changes_nothing_but_another_is_not_written_over(tmp_path: Path) -> None:
    path = write_train_shard(tmp_path, [chunk("a")], {"a": "new"}, "2025-01-09")
    before = path.read_bytes()
    assert write_train_shard(tmp_path, [chunk("a")], {"a": "new"}, "2025-01-09") == path
    with pytest.raises(OutputError, match="another shard of that date"):
        write_train_shard(tmp_path, [chunk("b")], {"b": "new"}, "2025-01-09")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_its_date_is_that_of_the_newest_mail() -> None:
    assert shard_date([chunk("a"), chunk("b", "2025-02-01T00:00:00Z"), chunk("c", "")]) == "2025-02-01"
    with pytest.raises(InputError, match="none of its mails has a date"):
        shard_date([chunk("a", "")])
    require_date(None)
    require_date("2025-02-01")
    with pytest.raises(UsageError, match="not a date"):
        require_date("1 May")
