"""window, rehearse, sample and shards as users call them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from replay.builders import archive, write_archive, write_files

from jobs.cli import main
from jobs.contracts.artifacts import marker_key

ENTRIES = archive()


def refrain(*args: object) -> int:
    """The exit code of `refrain args…`."""
    try:
        return int(main([str(arg) for arg in args]))
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_files(tmp_path, ENTRIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REFRAIN_STORE", raising=False)
    return tmp_path


def test_the_commands_of_the_readme(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert refrain("window", "--assignments", "assignments.json", "--window-idx", 9, "--split", "train") == 0
    told = capfd.readouterr()
    (folder / "new_train.json").write_text(told.out)
    assert "window: window idx 9, new train chunks" in told.err
    assert (
        refrain("rehearse", "--assignments", "assignments.json", "--window-idx", 9, "-o", "old_shards_train.json") == 0
    )
    args = ["--replay-ratio", "1:4", "--batch-size", 16, "--min-per-bucket", 2, "-o", "epoch_schedule.json"]
    assert refrain("sample", "old_shards_train.json", "new_train.json", *args) == 0
    assert "sender distribution" in capfd.readouterr().out
    schedule = json.loads((folder / "epoch_schedule.json").read_text())
    new = [one.chunk_id for one in ENTRIES if one.split == "train" and one.window_idx == 9]
    listed = [name for batch in schedule["epochs"][0]["batches"] for name in batch["chunk_ids"]]
    assert set(new) <= set(listed)
    assert len(listed) == len(new) + len(new) // 4


def test_schedule_to_standard_output(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refrain("window", "-o", "new_train.json")
    refrain("rehearse")
    capfd.readouterr()
    assert refrain("sample", "old_shards_train.json", "new_train.json", "-o", "-") == 0
    told = capfd.readouterr()
    assert json.loads(told.out)["window_idx"] == 9
    assert "sender distribution" in told.err


def test_sample_says_where_the_ratio_was_capped(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refrain("window", "-o", "new_train.json")
    refrain("rehearse")
    capfd.readouterr()
    assert refrain("sample", "old_shards_train.json", "new_train.json", "--replay-ratio", "1:2") == 0
    assert "--max-share 0.2 holds rehearsal at" in capfd.readouterr().err
    assert refrain("sample", "old_shards_train.json", "new_train.json", "--replay-ratio", "1:4") == 0
    assert "--max-share" not in capfd.readouterr().err


def test_sample_checks_against_assignments_beside_the_manifest(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    val = next(one.chunk_id for one in ENTRIES if one.split == "val")
    (folder / "old.json").write_text(json.dumps([val]))
    refrain("window", "-o", "new_train.json")
    assert refrain("sample", "old.json", "new_train.json") == 65
    told = capfd.readouterr().err
    assert f"refrain: error: old.json: chunk {val} is of val, the assignments say" in told
    assert "it was checked against assignments.json" in told
    assert not (folder / "epoch_schedule.json").exists()


@pytest.mark.parametrize(
    ("args", "code", "what"),
    [
        (["window", "--assignments", "none.json"], 66, "none.json: no such file"),
        (["rehearse", "--chunks", "none.json", "--length-metadata", "none.json"], 66, "none.json: no such file"),
        (["rehearse", "--split", "val"], 2, "val chunks are never rehearsed"),
        (["rehearse", "stray.json"], 2, "an unexpected argument: stray.json"),
        (["sample"], 2, "needs the manifest and the new train chunks"),
        (["sample", "chunks.json", "chunks.json", "--replay-ratio", "x"], 2, "not a replay ratio: x"),
        (["sample", "chunks.json", "chunks.json", "--max-share", "1"], 2, "not a cap on the share: 1"),
        (["sample", "chunks.json", "none.json"], 66, "none.json: no such file"),
        (["window", "--store", "/tmp/x", "--assignments", "a.json"], 2, "both a store (/tmp/x) and --assignments"),
        (["window", "--store", "/tmp/x", "-o", "new.json"], 2, "both a store (/tmp/x) and --output"),
        (["rehearse", "--store", "/tmp/x", "--shard-size", 9], 2, "both a store (/tmp/x) and --shard-size"),
        (["sample", "--store", "/tmp/x", "old.json", "new.json"], 2, "both a store (/tmp/x) and files"),
        (["show", "--store", "/tmp/x", "-m", "a.json", "a@x"], 2, "both a store (/tmp/x) and --assignments"),
        (["shards", "none"], 66, "none: no such folder"),
        (["shards", "-"], 2, "'-' stands for standard input and output"),
        (["split", "-i", "a", "-o", "-"], 2, "'-' stands for standard input and output"),
        (["split", "-i", "a", "-m", "-"], 2, "'-' stands for standard input and output"),
        (["show", "-m", "-", "a@x"], 2, "'-' stands for standard input and output"),
        (["log", "verify", "-"], 2, "'-' stands for standard input and output"),
        (["log", "verify", "chunks.json", "--deep"], 66, "no such folder"),
        (["log", "verify", "picture.png"], 65, "picture.png: a file, not an archive"),
        (["window", "--store", "s3//bucket/x"], 2, "not a store: s3//bucket/x"),
        (["window", "--store", "s3:/bucket/x"], 2, "not a store: s3:/bucket/x"),
        (["window", "--store", "x"], 2, "or ./folder for a folder"),
        (["window", "--window-idx", 99], 2, "there is no window 99 yet: the newest is 9"),
        (["rehearse", "--window-idx", 99], 2, "there is no window 99 yet: the newest is 9"),
    ],
)
def test_errors(folder: Path, capfd: pytest.CaptureFixture[str], args: list[str], code: int, what: str) -> None:
    (folder / "picture.png").touch()
    assert refrain(*args) == code
    assert what in capfd.readouterr().err


def test_current_window_shards_as_a_list_of_files(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refrain("rehearse", "-o", "all.json")
    entries = json.loads((folder / "all.json").read_text())
    for i in range(3):
        (folder / f"shard{i}.json").write_text(json.dumps(entries[i : i + 1]))
    shards = [f"shard{i}.json" for i in range(3)]
    assert refrain("rehearse", "-o", "old.json", "--current-window-shards", *shards) == 0
    assert json.loads((folder / "old.json").read_text()) == entries[3:]


def test_over_a_store(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The same bytes as from files, as artifacts of the cycle."""
    url = f"file://{tmp_path}/archive"
    log = write_archive(tmp_path / "archive", ENTRIES)
    log.store.put(marker_key("c9", "split"), orjson.dumps({"config": {}, "outputs": {}, "result": {"window_idx": 9}}))
    for stage in ("window", "rehearse", "sample"):
        assert refrain(stage, "--store", url, "--cycle", "c9") == 0
    assert "sender distribution" in capfd.readouterr().err
    folder = tmp_path / "files"
    folder.mkdir()
    assignments = write_files(folder, ENTRIES)
    new, old, schedule = (folder / name for name in ("new_train.json", "old_shards_train.json", "epoch_schedule.json"))
    assert refrain("window", "--assignments", assignments, "-o", new) == 0
    assert refrain("rehearse", "--assignments", assignments, "-o", old) == 0
    assert refrain("sample", old, new, "-o", schedule) == 0
    cycle = tmp_path / "archive" / "cycles" / "c9"
    for stage, path in (("window", new), ("rehearse", old), ("sample", schedule)):
        assert (cycle / stage / path.name).read_bytes() == path.read_bytes()


def test_seed_of_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refrain("window", "-o", "new.json")
    refrain("rehearse", "-o", "old.json")
    digests = set()
    for seed in ("1", "2", "2"):
        monkeypatch.setenv("RANDOM_SEED", seed)
        refrain("sample", "old.json", "new.json", "-o", "schedule.json")
        digests.add(hashlib.sha256((folder / "schedule.json").read_bytes()).hexdigest())
    assert len(digests) == 2


def test_same_bytes_whatever_the_hash_seed(folder: Path) -> None:
    """Each command in a process of its own, with PYTHONHASHSEED 0 and 1."""
    digests = []
    for seed in ("0", "1"):
        script = (
            "from jobs.cli import cli\n"
            "for line in ('window -o new.json', 'rehearse -o old.json --max-rehearsal-samples 50',\n"
            "             'sample old.json new.json -o schedule.json --batch-tokens 3000'):\n"
            "    cli.main(line.split(), standalone_mode=False)\n"
        )
        env = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", script], cwd=folder, env=env, check=True, capture_output=True)
        names = ("new.json", "old.json", "schedule.json")
        digests.append([hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names])
    assert digests[0] == digests[1]


def test_shards(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = [f"train_2025-11-{day:02d}.json" for day in (4, 11, 18)]
    for i, name in enumerate(names):
        (tmp_path / name).write_text(json.dumps([{"chunk_id": f"c{i}", "text": str(i)}, {"chunk_id": "c"}]))
    assert refrain("shards", tmp_path, "--keep-shards", 2) == 0
    assert [one["chunk_id"] for one in json.loads((tmp_path / "old_train.json").read_text())] == ["c1", "c", "c2"]
    listing = json.loads((tmp_path / "shards.json").read_text())
    assert [one["file"] for one in listing["active"]] == names[1:]
    assert [one["file"] for one in listing["archived"]] == names[:1]
    assert "archived" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "old_train.json", "shards.json"])
    assert refrain("shards", tmp_path, "--keep-shards", 1, "-o", "-") == 0
    assert [one["chunk_id"] for one in json.loads(capfd.readouterr().out)] == ["c2", "c"]


def test_what_a_stage_tells_is_rounded_for_people(capsys):
    from jobs.cli.replay_options import tell

    tell("train", {"num_steps": 4, "first_loss": 6.4518084704758385, "stopped_early": False, "best": None})
    assert capsys.readouterr().err == "train: steps 4, first loss 6.45181, stopped early false, best unknown\n"
