"""Chunks as columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from replay.builders import archive, entry

from jobs.contracts.errors import InputError
from jobs.contracts.records import length_bucket
from jobs.replay import table as table_module
from jobs.replay.table import UNKNOWN, ChunkTable, concat, length_buckets


def names(table: ChunkTable) -> list[str]:
    return list(table.chunk_ids.to_pylist())


def test_entries_come_back_as_they_were() -> None:
    entries = archive()
    table = ChunkTable.from_entries(entries)
    assert list(table.entries()) == entries
    assert list(table.take(np.array([5, 2])).entries()) == [entries[5], entries[2]]
    assert list(concat(table.take(np.arange(3)), table.take(np.arange(3, len(table)))).entries()) == entries


def test_entries_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "_BLOCK_ROWS", 7)
    entries = archive()
    assert list(ChunkTable.from_entries(entries).entries()) == entries


def test_what_is_not_told_is_unknown() -> None:
    table = ChunkTable.from_entries(["a"])
    assert (table.split.tolist(), table.window_idx.tolist(), table.num_tokens.tolist()) == ([UNKNOWN], [UNKNOWN], [0])
    assert table.length_bucket.tolist() == [UNKNOWN]
    assert table.with_buckets().length_bucket.tolist() == [0]
    assert not table.has_senders()


def test_completed_fills_only_what_is_not_known() -> None:
    known = ChunkTable.from_entries([entry("b", "tb", sender="bob", window=3, tokens=700), entry("a", "ta", window=1)])
    half = ChunkTable.from_entries(["c", "b", {"chunk_id": "a", "thread_id": "own", "num_tokens": 5}])
    done = half.completed(known)
    assert names(done) == ["c", "b", "a"]
    assert done.thread_ids.take(done.thread).to_pylist() == ["", "tb", "own"]
    assert done.senders.take(done.sender).to_pylist() == ["", "bob", "ann@example.org"]
    assert done.num_tokens.tolist() == [0, 700, 5]
    assert done.window_idx.tolist() == [UNKNOWN, 3, 1]


def test_find_and_distinct() -> None:
    table = ChunkTable.from_entries(["a", "b", "a", "c"])
    assert names(table.distinct()) == ["a", "b", "c"]
    assert table.distinct().find(ChunkTable.from_entries(["c", "x", "a"]).chunk_ids).tolist() == [2, -1, 0]


def test_length_buckets_are_those_of_the_records() -> None:
    lengths = np.array([0, 1, 255, 256, 257, 512, 513, 1024, 1025, 10**6])
    assert length_buckets(lengths).tolist() == [length_bucket(int(n)) for n in lengths]


def test_tokens_by_other_names(tmp_path: Path) -> None:
    path = tmp_path / "lengths.json"
    path.write_text('{"a": {"tokens": 5}, "b": {"length": 600}, "c": 7}')
    table = ChunkTable.from_file(path).with_buckets()
    assert table.num_tokens.tolist() == [5, 600, 7]
    assert table.length_bucket.tolist() == [0, 2, 0]


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ('{"split": "tain"}', "split: 'tain'"),
        ('{"split": ["train"]}', r"split: \['train'\]"),
        ('{"window_idx": "1"}', "window_idx: '1'"),
        ('{"window_idx": 1.5}', "window_idx: 1.5"),
        ('{"window_idx": null}', "window_idx: None"),
        ('{"window_idx": true}', "window_idx: True"),
        ('{"window_idx": [1]}', r"window_idx: \[1\]"),
        ('{"num_tokens": -5}', "num_tokens: -5"),
        ('{"num_tokens": 99999999999}', "num_tokens: 99999999999"),
        ('{"num_tokens": 99999999999999999999}', "num_tokens: 1e"),
        ('{"thread_id": 17}', "thread_id: 17"),
        ('{"sender": ["ann"]}', r"sender: \['ann'\]"),
    ],
)
def test_impossible_values_are_named_with_chunk_and_file(tmp_path: Path, fields: str, what: str) -> None:
    path = tmp_path / "list.json"
    path.write_text('{"bad-1": %s}' % fields)  # noqa: UP031
    with pytest.raises(InputError, match=f"list.json: chunk bad-1 has an impossible {what}"):
        ChunkTable.from_file(path)
