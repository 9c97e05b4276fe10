"""`refrain train` as users call it, over plain files and over a store."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
import trainable
from trainable import CYCLE, copied

from jobs.cli import main

pytest.importorskip("torch")

SETTINGS = ["--lr", 2e-2, "--rank", 4, "--alpha", 8, "--save-steps", 3, "--micro-batch-tokens", 1, "--device", "cpu"]


def refrain(*args: object) -> int:
    """The exit code of `refrain args…`."""
    try:
        return int(main([str(arg) for arg in args]))
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: Any) -> Path:
    return trainable.make(tmp_path_factory.mktemp("ready"))


@pytest.fixture
def files(ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = trainable.export(ready, tmp_path / "files")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("REFRAIN_STORE", raising=False)
    monkeypatch.delenv("RANDOM_SEED", raising=False)
    return folder


def train(ready: Path, *args: object) -> int:
    return refrain("train", "--base", ready / "base", *SETTINGS, *args)


def digests(folder: Path, *without: str) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in without
    }


def adapter(folder: Path) -> str:
    from jobs.ml.adapters import adapter_digest

    return adapter_digest(max(folder.glob("step_*"), key=lambda path: int(path.name[5:])))


def test_files_and_a_store_give_the_same_adapter(
    ready: Path, files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = digests(files)
    assert train(ready, "--schedule", "epoch_schedule.json", "--val", "val.json", "--output-dir", "out") == 0
    told = capfd.readouterr().err
    assert "train: steps 6, epochs 2" in told
    assert digests(files, "out") == before, "the data sets are read and never written"
    assert sorted(path.name for path in (files / "out").iterdir())[:1] == ["exposures.json"]
    state = json.loads((files / "out/trainer_state.json").read_text())
    assert state["best_model_checkpoint"].startswith("step_")
    url = copied(ready, (tmp_path / "archive").as_uri())
    assert train(ready, "--store", url, "--cycle", CYCLE) == 0
    store = tmp_path / f"archive/cycles/{CYCLE}/train"
    assert adapter(files / "out") == adapter(store / "checkpoints")
    assert state == json.loads((store / "trainer_state.json").read_text())
    assert "step_6" in {path.parent.name for path in store.rglob("_COMPLETE.json")}
    # The archive knows its base now.
    assert refrain("train", *SETTINGS, "--store", url, "--cycle", CYCLE) == 0
    assert "had finished: nothing was done now" in capfd.readouterr().err


def test_the_names_of_the_original(ready: Path, files: Path) -> None:
    """Without a schedule, it is made as `refrain sample` makes it."""
    args = ["--assignments", "assignments.json", "--rehearsal-manifest", "old_shards_train.json"]
    args += ["--length-metadata", "length_metadata.json", "--val", "val.json", "--output-dir", "out"]
    args += ["--epochs", 2, "--batch-size", 4, "--replay-ratio", "1:4", "--early-stop", "--patience", 2]
    assert train(ready, *args, "--min-delta", 100, "--save-steps", 1, "--seed", 42) == 0
    made, sampled = (
        json.loads((files / name).read_text()) for name in ("out/epoch_schedule.json", "epoch_schedule.json")
    )
    assert made["epochs"] == sampled["epochs"]
    state = json.loads((files / "out/trainer_state.json").read_text())
    assert state["global_step"] == 3, "the first evaluation counts, two more do not"
    assert state["refrain"]["stopped_early"] is True


def test_new_chunks_by_file_or_by_window(ready: Path, files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    common = ["--rehearsal-manifest", "old_shards_train.json", "--epochs", 1, "--batch-size", 4]
    assert train(ready, *common, "--train", "new_train.json", "--output-dir", "a") == 0
    window = json.loads((files / "new_train.json").read_text())[0]["window_idx"]
    assert train(ready, *common, "--window-idx", window, "--output-dir", "b") == 0
    assert digests(files / "a") == digests(files / "b")
    assert "epoch_schedule.json is not used: --schedule names it" in capfd.readouterr().err


def test_the_train_set_is_archived_and_rehearsed_from(
    ready: Path, files: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    chunks = {record["chunk_id"]: record for record in orjson.loads((files / "chunks.json").read_bytes())}
    schedule = json.loads((files / "epoch_schedule.json").read_text())
    batches = [batch for epoch in schedule["epochs"] for batch in epoch["batches"]]
    common = ["--schedule", "epoch_schedule.json", "--val", "val.json"]
    assert train(ready, *common, "--save-train-shard", "shards", "--output-dir", "out") == 0
    (shard,) = (files / "shards").iterdir()
    listed = [json.loads(line) for line in shard.read_text().splitlines()]
    sources = {name: batch["source"] for batch in batches for name in batch["chunk_ids"]}
    assert {record["chunk_id"]: record.pop("source") for record in listed} == sources
    assert {record["chunk_id"] for record in listed} == {name for batch in batches for name in batch["chunk_ids"]}
    assert all(record == chunks[record["chunk_id"]] for record in listed)
    newest = max(message["date"] for record in listed for message in record["messages"])
    assert shard.name == f"train_{newest[:10]}.jsonl"
    # Once more, the next week: the shards' records become old_train.json, which serves without chunks.json.
    more = ["--shard-date", "2025-03-01", "--update-old-train", "--keep-shards", 5]
    assert train(ready, *common, "--save-train-shard", "shards", *more, "--output-dir", "out2") == 0
    assert "old_train.json holds" in capfd.readouterr().err
    old = orjson.loads((files / "shards/old_train.json").read_bytes())
    assert [record["chunk_id"] for record in old] == [record["chunk_id"] for record in listed]
    assert adapter(files / "out2") == adapter(files / "out")
    manifest = json.loads((files / "old_shards_train.json").read_text())
    old_ids = {entry["chunk_id"] for entry in manifest}
    (files / "old_train.json").write_bytes(orjson.dumps([one for one in old if one["chunk_id"] in old_ids]))
    before = digests(files)
    args = ["--old-train", "old_train.json", "--epochs", 1, "--batch-size", 4, "--replay-ratio", "1:4"]
    assert train(ready, *args, "--output-dir", "out3") == 0
    assert digests(files, "out3") == before
    replayed = [
        name
        for batch in json.loads((files / "out3/epoch_schedule.json").read_text())["epochs"][0]["batches"]
        if batch["source"] == "replay"
        for name in batch["chunk_ids"]
    ]
    assert set(replayed) <= {one["chunk_id"] for one in old}


def test_alpha_is_twice_the_rank_and_a_rank_without_use_is_told(
    ready: Path, files: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    common = ["train", "--base", ready / "base", "--schedule", "epoch_schedule.json", "--device", "cpu"]
    assert refrain(*common, "--rank", 129, "--output-dir", "many") == 0
    assert "refrain: note: rank 129 is more than 128" in capfd.readouterr().err
    said = json.loads((files / "many/step_6/adapter_config.json").read_text())
    assert (said["r"], said["lora_alpha"]) == (129, 258)
    # Said or not, it is the same training: it is there already.
    before = digests(files / "many")
    assert refrain(*common, "--rank", 129, "--alpha", 258, "--output-dir", "many") == 0
    assert digests(files / "many") == before


def test_from_an_adapter_in_a_folder(ready: Path, files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    common = ["--schedule", "epoch_schedule.json", "--val", "val.json"]
    assert train(ready, *common, "--output-dir", "first") == 0
    assert train(ready, *common, "--incumbent", "first/step_6", "--output-dir", "second") == 0
    told = capfd.readouterr().err
    assert "starts from the adapter in service; its loss is" in told
    assert "starts from incumbent" in told
    assert train(ready, *common, "--incumbent", "first/step_6", "--start-from", "base", "--output-dir", "third") == 0
    assert adapter(files / "third") == adapter(files / "first") != adapter(files / "second")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--update-old-train"], "--update-old-train needs --save-train-shard"),
        (["--schedule", "epoch_schedule.json", "--epochs", 2], "both --schedule and --epochs are given"),
        (["--patience", 2], "--patience needs --early-stop"),
        (["--min-delta", 0.01], "--min-delta needs --early-stop"),
        (["--schedule", "epoch_schedule.json", "--rehearsal-manifest", "x"], "and --rehearsal-manifest are given"),
        (["--store", "./store", "--schedule", "epoch_schedule.json"], "and --schedule are given"),
        (["--attempt", 1], "--attempt and --again are for --store"),
        (["--lr", "nan"], "nan is not a finite number"),
        (["--lr", "-1"], "not in the range x>0"),
        (["--alpha", "0"], "not in the range x>0"),
        (["--dropout", "nan"], "nan is not a finite number"),
        (["--device", "cuda:1"], "'cuda:1' is not one of"),
        (["--schedule", "epoch_schedule.json", "--shard-date", "May", "--save-train-shard", "x"], "not a date: 'May'"),
    ],
)
def test_flags_that_contradict_each_other(
    ready: Path, files: Path, capfd: pytest.CaptureFixture[str], args: list[object], told: str
) -> None:
    assert train(ready, *args) == 2
    assert told in capfd.readouterr().err
    assert not (files / "checkpoints").exists()


def test_without_a_base(files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert refrain("train", "--schedule", "epoch_schedule.json") == 2
    assert "needs a base model" in capfd.readouterr().err


def test_the_other_processes_of_a_launcher_only_take_part(
    ready: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun starts the same command line in each: all but the first leave files and stores alone."""
    from jobs.ml.training import follower

    taken: list[Any] = []
    monkeypatch.setattr(follower, "take_part", taken.append)
    monkeypatch.setenv("RANK", "1")
    assert train(ready, "--output-dir", "out") == 0
    assert taken == ["cpu"]
    assert not (files / "out").exists()


@pytest.mark.slow
def test_under_torchrun(ready: Path, files: Path) -> None:
    """As on several nodes: who is who comes from the environment alone."""
    common = ["--schedule", "epoch_schedule.json", "--val", "val.json", "--dropout", 0]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "jobs.cli"]
    words = ["train", "--base", ready / "base", *SETTINGS, *common, "--output-dir", "two"]
    done = subprocess.run([*launcher, *map(str, words)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("train: steps 6") == 1
    assert train(ready, *common, "--output-dir", "one") == 0
    from safetensors.torch import load_file

    one, two = (load_file(files / name / "step_6/adapter_model.safetensors") for name in ("one", "two"))
    distance = sum(float((one[name] - two[name]).square().sum()) for name in one)
    assert (distance / sum(float(one[name].square().sum()) for name in one)) ** 0.5 < 1e-5
    state = json.loads((files / "two/step_6/training_state/state.json").read_text())
    assert [record["num_processes"] for record in state["seen"]] == [2]
