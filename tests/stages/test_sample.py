"""The sample stage."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from replay.builders import archive, write_archive, write_files

from jobs.contracts.errors import InputError, MissingInputError, UsageError
from jobs.contracts.records import ManifestEntry
from jobs.stages import Inputs, Outputs
from jobs.stages.sample import Config, run

ENTRIES = archive()
TRAIN = [one for one in ENTRIES if one.split == "train"]
OLD = [one for one in TRAIN if one.window_idx < 9]
NEW = [one for one in TRAIN if one.window_idx == 9]
VAL = next(one for one in ENTRIES if one.split == "val")


def listed(path: Path, entries: list[Any]) -> list[Path]:
    path.write_text(json.dumps([asdict(one) if isinstance(one, ManifestEntry) else one for one in entries]))
    return [path]


def lists(tmp_path: Path, old: list[Any], new: list[Any]) -> dict[str, list[Path]]:
    return {"manifest": listed(tmp_path / "old.json", old), "new_train": listed(tmp_path / "new.json", new)}


def schedule(inputs: Inputs, tmp_path: Path, **settings: Any) -> dict[str, Any]:
    path = tmp_path / "epoch_schedule.json"
    run(Config(**settings), inputs, Outputs({"schedule": path, "report": tmp_path / "report.txt"}))
    made: dict[str, Any] = json.loads(path.read_text())
    return made


def test_all_new_chunks_and_the_quota_of_old(tmp_path: Path) -> None:
    assignments = write_files(tmp_path, ENTRIES)
    inputs = Inputs(lists(tmp_path, OLD, NEW) | {"assignments": [assignments]})
    made = schedule(inputs, tmp_path, epochs=2)
    assert made["window_idx"] == 9
    for epoch in made["epochs"]:
        of = {
            source: [c for b in epoch["batches"] if b["source"] == source for c in b["chunk_ids"]]
            for source in ("new", "replay")
        }
        assert sorted(of["new"]) == sorted(one.chunk_id for one in NEW)
        assert len(of["replay"]) == len(NEW) // 4
        assert set(of["replay"]) <= {one.chunk_id for one in OLD}
    report = (tmp_path / "report.txt").read_text()
    assert "sender distribution" in report
    assert f"of {len(OLD)} old chunks" in report


def test_bare_ids_get_what_the_log_knows(tmp_path: Path) -> None:
    """Files of the original shape: the same schedule as from entries."""
    assignments = {"assignments": [write_files(tmp_path, ENTRIES)]}
    made = schedule(Inputs(lists(tmp_path, OLD, NEW) | assignments), tmp_path)
    bare = lists(tmp_path, [one.chunk_id for one in OLD], [one.chunk_id for one in NEW])
    assert schedule(Inputs(bare | assignments), tmp_path) == made


def test_without_assignments(tmp_path: Path) -> None:
    made = schedule(Inputs(lists(tmp_path, OLD, NEW)), tmp_path)
    assert made["report"]["coverage"] is None
    assert made["report"]["num_replay_chunks"] == 3 * (len(NEW) // 4)


def test_bare_ids_without_assignments_are_noted(tmp_path: Path) -> None:
    inputs = Inputs(lists(tmp_path, ["a", "b"], ["c", "d", "e", "f"]))
    result = run(Config(), inputs, Outputs({"schedule": tmp_path / "s.json"}))
    assert "some chunks are not known to be of train: give --assignments to check them" in result["notes"]
    assert result["num_replay_chunks"] == 3


def test_files_and_archive_give_the_same_bytes(tmp_path: Path) -> None:
    paths = lists(tmp_path, OLD, NEW)
    files = Inputs(paths | {"assignments": [write_files(tmp_path, ENTRIES)]})
    run(Config(), files, Outputs({"schedule": tmp_path / "a.json"}))
    log = write_archive(tmp_path / "archive", ENTRIES)
    run(Config(), Inputs(paths, log, "c9"), Outputs({"schedule": tmp_path / "b.json"}))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize("where", ["old", "new"])
@pytest.mark.parametrize("told_by", ["itself", "assignments", "archive"])
def test_a_val_chunk_is_refused(tmp_path: Path, where: str, told_by: str) -> None:
    bad: Any = VAL if told_by == "itself" else VAL.chunk_id
    old, new = ([*OLD, bad], NEW) if where == "old" else (OLD, [*NEW, bad])
    paths = lists(tmp_path, old, new)
    log = None
    if told_by == "assignments":
        paths["assignments"] = [write_files(tmp_path, ENTRIES)]
    elif told_by == "archive":
        log = write_archive(tmp_path / "archive", ENTRIES)
    with pytest.raises(InputError) as caught:
        run(Config(), Inputs(paths, log), Outputs({"schedule": tmp_path / "s.json"}))
    assert VAL.chunk_id in str(caught.value)
    assert f"{where}.json" in str(caught.value)
    assert not (tmp_path / "s.json").exists()


def test_an_active_window_is_refused(tmp_path: Path) -> None:
    paths = lists(tmp_path, OLD, NEW)
    recent = next(one for one in OLD if one.window_idx == 8)
    with pytest.raises(InputError, match=f"chunk {recent.chunk_id} is of window 8, which is active"):
        run(Config(active_windows=2), Inputs(paths), Outputs({"schedule": tmp_path / "s.json"}))


def test_nothing_new_and_no_log(tmp_path: Path) -> None:
    made = schedule(Inputs(lists(tmp_path, OLD, [])), tmp_path)
    assert [epoch["batches"] for epoch in made["epochs"]] == [[], [], []]


def test_missing_list(tmp_path: Path) -> None:
    paths = lists(tmp_path, OLD, NEW)
    paths["manifest"] = [tmp_path / "none.json"]
    with pytest.raises(MissingInputError, match=r"none\.json"):
        run(Config(), Inputs(paths), Outputs({"schedule": tmp_path / "s.json"}))


def test_bad_ratio_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a replay ratio: 4"):
        run(Config(replay_ratio="4"), Inputs(lists(tmp_path, OLD, NEW)), Outputs({"schedule": tmp_path / "s.json"}))
    assert not (tmp_path / "s.json").exists()
