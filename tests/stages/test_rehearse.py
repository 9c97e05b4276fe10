"""The rehearse stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from replay.builders import archive, write_archive, write_files

from jobs.contracts.errors import UsageError
from jobs.contracts.records import ManifestEntry
from jobs.stages import Inputs, Outputs
from jobs.stages.rehearse import Config, run

ENTRIES = archive()


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return Inputs({"assignments": [write_files(tmp_path, ENTRIES)]})


def manifest(config: Config, inputs: Inputs, path: Path) -> list[ManifestEntry]:
    run(config, inputs, Outputs({"manifest": path}))
    return [ManifestEntry(**one) for one in json.loads(path.read_text())]


@pytest.mark.parametrize("active", [1, 2, 5])
def test_train_before_the_active_windows_and_nothing_else(inputs: Inputs, tmp_path: Path, active: int) -> None:
    got = manifest(Config(window_idx=7, active_windows=active), inputs, tmp_path / "old.json")
    assert got == [one for one in ENTRIES if one.split == "train" and one.window_idx < 8 - active]
    assert got


def test_capped_and_seeded(inputs: Inputs, tmp_path: Path) -> None:
    config = Config(max_rehearsal_samples=25)
    first = manifest(config, inputs, tmp_path / "old.json")
    assert len(first) == 25
    assert first == manifest(config, inputs, tmp_path / "again.json")
    assert first != manifest(Config(max_rehearsal_samples=25, seed=1), inputs, tmp_path / "seed.json")
    assert first == sorted(first, key=ENTRIES.index)


def test_capped_per_bucket(inputs: Inputs, tmp_path: Path) -> None:
    got = manifest(Config(max_per_bucket=1), inputs, tmp_path / "old.json")
    strata = [(one.sender, one.thread_id, one.length_bucket) for one in got]
    assert len(set(strata)) == len(strata)


def test_first_cycle_is_empty(inputs: Inputs, tmp_path: Path) -> None:
    assert manifest(Config(window_idx=0), inputs, tmp_path / "old.json") == []


def test_current_shards_are_left_out(inputs: Inputs, tmp_path: Path) -> None:
    all_of_them = manifest(Config(), inputs, tmp_path / "old.json")
    (tmp_path / "a.json").write_text(json.dumps([all_of_them[0].chunk_id, "not-in-the-log"]))
    (tmp_path / "b.jsonl").write_text(json.dumps({"chunk_id": all_of_them[2].chunk_id, "text": "x"}))
    paths = {**inputs.paths, "current_window_shards": [tmp_path / "a.json", tmp_path / "b.jsonl"]}
    assert manifest(Config(), Inputs(paths), tmp_path / "old.json") == [all_of_them[1], *all_of_them[3:]]


def test_numbered_shards_of_any_split(inputs: Inputs, tmp_path: Path) -> None:
    result = run(Config(shard_size=3, split="val"), inputs, Outputs({"manifest": tmp_path / "shards"}))
    names = [f"val-{number:05d}.json" for number in range(1, result["num_shards"] + 1)]
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == names
    records = [one for name in names for one in json.loads((tmp_path / "shards" / name).read_text())]
    assert [one["chunk_id"] for one in records] == [one.chunk_id for one in ENTRIES if one.split == "val"]


def test_val_is_never_a_manifest(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="val chunks are never rehearsed"):
        run(Config(split="val"), inputs, Outputs({"manifest": tmp_path / "old.json"}))


def test_files_and_archive_give_the_same_bytes(inputs: Inputs, tmp_path: Path) -> None:
    config = Config(max_rehearsal_samples=25, max_per_bucket=2)
    first = run(config, inputs, Outputs({"manifest": tmp_path / "files.json"}))
    log = write_archive(tmp_path / "archive", ENTRIES)
    assert run(config, Inputs(archive=log, cycle="c9"), Outputs({"manifest": tmp_path / "archive.json"})) == first
    assert (tmp_path / "files.json").read_bytes() == (tmp_path / "archive.json").read_bytes()
