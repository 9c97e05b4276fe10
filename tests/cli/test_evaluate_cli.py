"""`refrain evaluate` as users call it: over plain files, and over a store."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from components import require
from splitting import write

try:
    from evaluating import CYCLE, NUM_THREADS, OVERLAP, WINDOW, World, make_world, thread
except ImportError:
    make_world = None  # type: ignore[assignment]

from jobs.cli import main
from jobs.contracts.artifacts import BASE_KEY, artifact_key, marker_key
from jobs.items import COMPLETE, StoreItems
from jobs.runner import run_in_archive
from jobs.stages import index, window

SETTINGS = ["--max-new-tokens", "6", "--max-queries", "16", "--device", "cpu"]


def refrain(*args: object) -> int:
    """The exit code of `refrain args…`."""
    try:
        return int(main([str(arg) for arg in args]))
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    require(make_world, "torch is not installed")
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def files(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same mail as the archive's, as plain files, by the commands."""
    folder = tmp_path_factory.mktemp("files")
    write(folder / "mails.jsonl", [one for number in range(NUM_THREADS) for one in thread(number)])
    cutting = ["--window-size", WINDOW, "--window-overlap", OVERLAP, "--max-tokens", 1500, "--window-period", "week"]
    known = ["--assignments", folder / "assignments.json"]
    model = ["--tokenizer", world.base.name, "--ratios", "40:30:30"]
    outputs = ["-o", folder / "splits", "-m", folder / "assignments.json"]
    assert refrain("split", "-i", folder / "mails.jsonl", *outputs, *cutting, *model) == 0
    for split in ("val", "test"):
        assert refrain("window", *known, "--split", split, "-o", folder / f"{split}.json") == 0
    embedder = ["--embedding-model", world.folder / "embedder", "--device", "cpu"]
    assert refrain("index", *known, "--vector-db", folder / "vector_db", *embedder) == 0
    return folder


def without_places(found: dict[str, Any]) -> dict[str, Any]:
    """What was found, without where adapters lie in a store."""
    entries = [found["base"], found["incumbent"], *found["checkpoints"]]
    for entry in filter(None, entries):
        entry["key"] = None
    return found


def test_files_give_what_the_archive_gives(
    world: World, files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "eval_results.json"
    command = [
        *("--checkpoints-dir", world.paths["checkpoints"][0], "--incumbent", world.paths["incumbent"][0]),
        *("--val-set", files / "val.json", "--test-set", files / "test.json", "--vector-db", files / "vector_db"),
        *("--base-model", world.base.name, "-o", out),
    ]
    assert refrain("evaluate", *command, *SETTINGS) == 0
    told = capfd.readouterr()
    assert "incumbent, in service" in told.out
    assert "step_12" in told.out
    assert "rag@5" in told.out
    assert "evaluate: window idx 2, checkpoints 2, val threads 13, " in told.err
    expected = world.run(tmp_path / "archive.json", max_new_tokens=6, max_queries=16)
    assert json.loads(out.read_text()) == without_places(expected)


def test_to_standard_output_the_table_goes_to_standard_error(
    world: World, files: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["--checkpoints-dir", world.paths["checkpoints"][0], "--val-set", files / "val.json", "-o", "-"]
    assert refrain("evaluate", *command, "--base-model", world.base.name, *SETTINGS) == 0
    told = capfd.readouterr()
    found = json.loads(told.out)
    assert found["incumbent"] is None
    assert found["base"]["rag_accuracy_at_5"] is None
    assert "base model, in service" in told.err
    assert "refrain: note: no vector index is named: perplexities alone" in told.err


def finish(world: World, stage: str, outputs: dict[str, Any]) -> None:
    """A marker as the runner leaves it."""
    marker = {"config": {}, "inputs": {}, "outputs": outputs, "result": {"window_idx": 2, "num_sources": 1}}
    world.archive.store.put(marker_key(CYCLE, stage), orjson.dumps(marker))


def test_over_a_store(world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store, url = world.archive.store, f"file://{world.folder}/archive"
    finish(world, "split", {})
    run_in_archive("window", window.Config(), world.archive, cycle=CYCLE)
    embedder = str(world.folder / "embedder")
    run_in_archive("index", index.Config(embedding_model=embedder, device="cpu"), world.archive, cycle=CYCLE)
    key = artifact_key(CYCLE, "train", "checkpoints")
    items = StoreItems(store, key, world.paths["checkpoints"][0])
    for name in ("step_4", "step_12"):
        items.publish(name)
    digests = {one: hashlib.sha256(store.get(f"{key}/{one}/{COMPLETE}")).hexdigest() for one in items.names()}
    finish(world, "train", {"checkpoints": {"key": key, "sha256": "0", "items": digests}})
    assert refrain("evaluate", "--store", url, "--cycle", CYCLE, *SETTINGS) == 2
    assert "needs the base model" in capfd.readouterr().err
    store.put(BASE_KEY, orjson.dumps({"base": world.base.name, "revision": None, "digest": world.base.digest}))
    assert refrain("evaluate", "--store", url, "--cycle", CYCLE, *SETTINGS) == 0
    assert "base model, in service" in capfd.readouterr().err
    found = json.loads(store.get(artifact_key(CYCLE, "evaluate", "eval_results")))
    assert [one["key"] for one in found["checkpoints"]] == [f"{key}/step_4", f"{key}/step_12"]
    direct = world.without("incumbent").run(tmp_path / "direct.json", max_new_tokens=6, max_queries=16)
    assert without_places(found) == without_places(direct)
    assert refrain("evaluate", "--store", url, "--cycle", CYCLE, *SETTINGS) == 0
    assert "had finished: nothing was done now" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("args", "code", "what"),
    [
        ([], 2, "needs the checkpoints and the val set"),
        (["--checkpoints-dir", ".", "--val-set", "val.json"], 2, "needs the base model"),
        (["--checkpoints-dir", ".", "--val-set", "val.json", "--base-model", "./none"], 66, "./none: no such folder"),
        (["--store", "/tmp/x", "--val-set", "val.json"], 2, "both a store (/tmp/x) and --val-set"),
        (["--checkpoints-dir", ".", "--val-set", "val.json", "--again"], 2, "--attempt and --again are for --store"),
        (["--rag-metric", "meteor"], 2, "'meteor' is not one of"),
    ],
)
def test_errors(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    args: list[str],
    code: int,
    what: str,
) -> None:
    require(make_world, "torch is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REFRAIN_STORE", raising=False)
    (tmp_path / "val.json").write_text("[]")
    assert refrain("evaluate", *args) == code
    assert what in capfd.readouterr().err
