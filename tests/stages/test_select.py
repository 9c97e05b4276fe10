"""The select stage: files and store alike, attempts, what a marker is told."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import orjson
import pytest
from selection.builders import Results

from jobs.assignments.archive import Archive
from jobs.contracts.artifacts import artifact_key, marker_key
from jobs.contracts.errors import UsageError
from jobs.contracts.store import Store
from jobs.runner import run_in_store
from jobs.stages import Inputs, Outputs
from jobs.stages.select import Config, run

LOSS = Config(strategy="LowestLoss", improvement_threshold=0.01)


def decided(tmp_path: Path, config: Config, *results: Results, **paths: list[Path]) -> tuple[Any, Any]:
    files = [one.write(tmp_path / f"eval_{number}.json") for number, one in enumerate(results)]
    result = run(config, Inputs({"eval_results": files, **paths}), Outputs({"decision": tmp_path / "decision.json"}))
    return result, orjson.loads((tmp_path / "decision.json").read_bytes())


def test_the_decision_and_what_is_told_of_it(tmp_path: Path) -> None:
    result, said = decided(tmp_path, LOSS, Results().add("step_4", 0.1))
    assert said["outcome"] == result["outcome"] == "Promote"
    assert result["candidate"] == {
        "adapter": "step_4",
        "sha256": said["winner"]["sha256"],
        "scores": said["winner"]["scores"],
    }
    assert len(orjson.dumps(result)) < 4096
    assert "val_windows" not in str(result)


def test_the_same_bytes_again(tmp_path: Path) -> None:
    decided(tmp_path, LOSS, Results().add("step_4", 0.1))
    before = (tmp_path / "decision.json").read_bytes()
    decided(tmp_path, LOSS, Results().add("step_4", 0.1))
    assert (tmp_path / "decision.json").read_bytes() == before


def test_what_training_saw_stands_beside_each_candidate(tmp_path: Path) -> None:
    state = tmp_path / "trainer_state.json"
    state.write_text('{"log_history": [{"step": 4, "loss": 2.0}, {"step": 4, "eval_loss": 2.5}]}')
    _, said = decided(tmp_path, LOSS, Results().add("step_4", 0.1).add("step_8", 0.1), trainer_state=[state])
    assert [one["eval_loss"] for one in said["candidates"]] == [2.5, None]


@pytest.mark.parametrize(
    "config",
    [
        Config(weights=(("test_ppl", 1.0),)),
        Config(thresholds=("test_perplexity <= 3",)),
        Config(thresholds=("val_perplexity about 3",)),
    ],
)
def test_rules_are_checked(tmp_path: Path, config: Config) -> None:
    with pytest.raises(UsageError):
        decided(tmp_path, config, Results().add("step_4"))
    assert not (tmp_path / "decision.json").exists()


def test_without_a_gate_the_best_is_taken(tmp_path: Path) -> None:
    config = Config(strategy="LowestLoss", is_gated=False, may_retrain=False)
    result, _ = decided(tmp_path, config, Results().add("step_4", -0.5))
    assert (result["outcome"], result["reason"]) == ("Promote", "NotGated")


def put_evaluation(store: Store, results: Results, attempt: int) -> None:
    """What train and evaluate of an attempt leave behind."""
    for stage, kind, data in (
        ("evaluate", "eval_results", orjson.dumps(results.json)),
        ("train", "trainer_state", b'{"log_history": []}'),
    ):
        key = artifact_key("w7", stage, kind, attempt)
        store.put(key, data)
        outputs = {kind: {"key": key, "sha256": hashlib.sha256(data).hexdigest()}}
        store.put(marker_key("w7", stage, attempt), orjson.dumps({"outputs": outputs, "result": {}}))


def test_all_attempts_compete_in_a_store(tmp_path: Path) -> None:
    url = (tmp_path / "archive").as_uri()
    store = Archive.open(url).store
    put_evaluation(store, Results().add("step_4", 0.012, spread=0.001), 0)
    first = run_in_store("select", LOSS, url=url, cycle="w7")
    assert (first["outcome"], first["retrain"]) == ("Retrain", {"learning_rate_factor": 0.5, "replay": None})
    put_evaluation(store, Results().add("step_5", 0.2), 1)
    second = run_in_store("select", LOSS, url=url, cycle="w7", attempt=1)
    assert (second["outcome"], second["attempts"], second["num_candidates"]) == ("Promote", 2, 2)
    assert second["winner"]["attempt"] == 1
    said = orjson.loads(store.get(artifact_key("w7", "select", "decision", 1)))
    assert [(one["path"], one["attempt"]) for one in said["candidates"]] == [("step_4", 0), ("step_5", 1)]
