"""A cycle's light stages where the libraries of training are not installed, as in a cluster's light image."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from local.cycles import cycle_of, workplace, write_cycle
from selection.builders import decided, put_adapter, put_decision
from servers.hub import COMMIT, NAME, serving

from jobs.contracts.artifacts import marker_key
from jobs.contracts.folder_store import FolderStore
from jobs.contracts.stages import STAGES
from jobs.local.configs import stage_config
from jobs.local.places import USES_BASE

HEAVY = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "sentence_transformers",
    "faiss",
    "bm25s",
    "sacrebleu",
    "rouge_score",
)


def light(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """`refrain` in a process that has none of the heavy libraries, nor have its workers."""
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({HEAVY}))\n")
    environment |= {"PYTHONPATH": str(folder), "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "jobs.cli", *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_a_base_model_on_the_hub(tmp_path: Path) -> None:
    place = workplace(tmp_path / "place")
    (place / "base" / "config.json").write_text('{"model_type": "llama"}')
    file = write_cycle(place / "cycle.yaml", model={"base": NAME})
    with serving(place / "base", ["config.json", "tokenizer.json"]) as (hub, address):
        done = light(tmp_path, "run", file, "--until", "parse", HF_ENDPOINT=address)
        assert done.returncode == 0, done.stderr
        assert hub.asked == [], "parse reads mail and no model"
        done = light(tmp_path, "run", file, "--until", "sample", HF_ENDPOINT=address)
        assert done.returncode == 0, done.stderr
    marker = FolderStore(place / "store" / "workshop").get(marker_key("w1", "split"))
    assert f"{NAME}@{COMMIT}".encode() in marker


@pytest.mark.parametrize("is_same", [True, False])
def test_a_promotion_checks_the_adapter(tmp_path: Path, is_same: bool) -> None:
    store = FolderStore(tmp_path / "archive")
    winner = put_adapter(store, "w7", "step_4", tmp_path)
    put_decision(store, "w7", decided("Promote", winner if is_same else winner | {"sha256": "0" * 64}))
    done = light(tmp_path, "promote", "--store", store.url, "--cycle", "w7")
    assert (done.returncode == 0) == is_same, done.stderr
    assert ("evaluate saw 0000" in done.stderr) != is_same, done.stderr


@pytest.mark.parametrize("stage", [row.name for row in STAGES])
def test_the_stages_that_need_the_commit_are_named(stage: str) -> None:
    settings = {
        str(stage_config(stage, cycle_of(Path("/x"), model={"base": "org/model", "revision": letter * 40})))
        for letter in "ab"
    }
    assert (len(settings) == 2) == (stage in USES_BASE)
