"""Numbered shards."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from jobs.contracts.errors import OutputError, UsageError
from jobs.replay.numbered_shards import write_numbered


def test_in_a_folder(tmp_path: Path) -> None:
    paths = write_numbered(tmp_path / "out", "val", "abcde", 5, 2)
    assert [path.name for path in paths] == ["val-00001.json", "val-00002.json", "val-00003.json"]
    assert [json.loads(path.read_text()) for path in paths] == [["a", "b"], ["c", "d"], ["e"]]


def test_suffix_of_a_file_name(tmp_path: Path) -> None:
    paths = write_numbered(tmp_path / "old.json.gz", "train", "abc", 3, 2)
    assert [path.name for path in paths] == ["train-00001.json.gz", "train-00002.json.gz"]
    assert json.loads(gzip.decompress(paths[1].read_bytes())) == ["c"]


def test_nothing_is_one_empty_shard(tmp_path: Path) -> None:
    (path,) = write_numbered(tmp_path, "train", [], 0, 2)
    assert json.loads(path.read_text()) == []


def test_shards_of_an_earlier_list_are_not_left_beside_these(tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in write_numbered(tmp_path, "train", "abcdef", 6, 2)}
    with pytest.raises(OutputError, match=r"train-00003\.json"):
        write_numbered(tmp_path, "train", "uvwx", 4, 2)
    with pytest.raises(OutputError, match=r"train-00001\.json"):
        write_numbered(tmp_path / "as.json.gz", "train", "uvwxyz", 6, 2)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    write_numbered(tmp_path, "val", "a", 1, 2)  # of another split: not concerned


def test_standard_output_cannot_be_numbered() -> None:
    with pytest.raises(UsageError):
        write_numbered(Path("-"), "train", "a", 1, 2)
