"""Two processes over gloo: copies of the model, and one model cut in two."""

from __future__ import annotations

import math
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from ml.training.runs import WEIGHTS, data_of, losses, newest, of_train, schedule, train
from safetensors.torch import load_file

from jobs.contracts.errors import ConfigError, StoppedError, TransientError
from jobs.items import LocalItems
from jobs.ml.training import run as run_module
from jobs.ml.training import world
from jobs.ml.training.checkpoints import TrainingState
from jobs.ml.training.sharding import local_bytes
from jobs.ml.training.steps import micro_batches, seen_digest
from jobs.ml.training.trainer import StepTrainer

SETTINGS: dict[str, Any] = {"dropout": 0.0, "precision": "fp32", "micro_batch_tokens": 700}


@pytest.fixture(scope="module")
def data(chunks: Any, encoder: Any) -> Any:
    """Epochs of 5 and of 3 batches, of 5 and 1 chunks, two to a step: of the last one, one process has nothing."""
    picked = [chunk.chunk_id for chunk in of_train(chunks, 14)]
    batches = [picked[:5], picked[5:6], picked[6:11], picked[11:12], picked[12:14]]
    return data_of(chunks, encoder, schedule(batches, batches[3:0:-1]), accumulation=2, num_val=5)


@pytest.fixture(scope="module")
def alone(base: Any, data: Any, tmp_path_factory: Any) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("alone") / "run"
    return folder, train(base, data, folder, **SETTINGS)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(world, "_PATIENCE_SECONDS", 60)
    yield
    assert not dist.is_initialized()
    assert "RANK" not in os.environ


def distance(one: Path, other: Path) -> float:
    mine, theirs = (load_file(newest(path) / WEIGHTS) for path in (one, other))
    assert mine.keys() == theirs.keys()
    squares = [(float((mine[n] - theirs[n]).square().sum()), float(theirs[n].square().sum())) for n in mine]
    return math.sqrt(sum(one for one, _ in squares) / sum(whole for _, whole in squares))


def state_of(folder: Path) -> TrainingState:
    from jobs.files import read_json

    return TrainingState.from_json(read_json(newest(folder) / "training_state/state.json"))


def require_planned(folder: Path, data: Any) -> None:
    """Each process's ledger is that of its share, and the shares are the schedule."""
    (record,) = state_of(folder).seen
    assert record.num_processes == len(record.digests) == 2
    planned: list[list[str]] = [[], []]
    for rank, digest in enumerate(record.digests):
        chained = ""
        for step in data.steps:
            shares = micro_batches(step, data.lengths, rank=rank, num_ranks=2, max_tokens=700)
            ids = [name for share in shares for name in share]
            planned[rank] += ids
            chained = seen_digest(chained, ids)
        assert chained == digest
    assert Counter(planned[0] + planned[1]) == Counter(name for step in data.steps for name in step.chunk_ids)
    assert all(planned)


def test_copies_make_the_update_of_one_process(base: Any, data: Any, alone: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    outcome = train(base, data, folder, processes=2, **SETTINGS)
    assert outcome.num_steps == len(data.steps) == 3 + 2
    assert LocalItems(folder).names() == LocalItems(alone[0]).names()
    require_planned(folder, data)
    assert distance(folder, alone[0]) < 1e-5
    assert losses(outcome) == pytest.approx(losses(alone[1]), rel=1e-5)
    assert losses(outcome, "eval_loss") == pytest.approx(losses(alone[1], "eval_loss"), rel=1e-5)


def test_one_model_cut_in_two(
    base: Any, data: Any, alone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped on its way and gone on from, too: the optimiser's moments are gathered, and cut up again."""
    from torch.distributed.tensor import DTensor

    found: list[float] = []
    original = run_module.shard

    def shard(model: Any, *args: Any) -> None:
        whole = sum(one.numel() * one.element_size() for one in model.parameters())
        original(model, *args)
        assert all(isinstance(one, DTensor) for one in model.parameters())
        found.append(local_bytes(model) / whole)

    monkeypatch.setattr(run_module, "shard", shard)
    folder, asked = tmp_path / "run", [0]

    def should_stop() -> bool:
        asked[0] += 1
        return asked[0] == 4

    with pytest.raises(StoppedError, match="told to stop at step 4 of 5"):
        train(base, data, folder, processes=2, shard_model=True, should_stop=should_stop, **SETTINGS)
    outcome = train(base, data, folder, processes=2, shard_model=True, **SETTINGS)
    assert len(found) == 2
    assert max(found) <= 0.6
    require_planned(folder, data)
    assert distance(folder, alone[0]) < 1e-5
    assert losses(outcome) == pytest.approx(losses(alone[1]), rel=1e-5)


def test_a_model_that_is_cut_up_goes_on_from_the_incumbent(base: Any, data: Any, adapter: Path, tmp_path: Path) -> None:
    """It computes nothing before it is cut up: the incumbent's loss is not looked at, its shape is."""
    said: list[str] = []
    settings = SETTINGS | {"start_from": adapter, "say": said.append}
    sharded = train(base, data, tmp_path / "sharded", processes=2, shard_model=True, **settings)
    assert said == ["starts from the adapter in service"]
    whole = train(base, data, tmp_path / "whole", **settings)
    assert distance(tmp_path / "sharded", tmp_path / "whole") < 1e-5
    assert losses(sharded) == pytest.approx(losses(whole), rel=1e-5)
    with pytest.raises(ConfigError, match="the settings say rank 8"):
        train(base, data, tmp_path / "other", processes=2, shard_model=True, rank=8, **settings)


def test_one_process_has_nobody_to_share_a_model_with(base: Any, data: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        train(base, data, tmp_path / "run", shard_model=True, **SETTINGS)
    assert "cut over the processes, and there is one alone" in str(caught.value)
    assert "training.processesPerNode" in str(caught.value)


def test_a_process_that_is_lost_ends_the_training_and_it_goes_on(
    base: Any, data: Any, alone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the same command goes on from the newest checkpoint, to what an undisturbed run comes to."""
    children: list[int] = []
    original = world.subprocess.Popen

    def popen(*args: Any, **kwargs: Any) -> Any:
        child = original(*args, **kwargs)
        children.append(child.pid)
        return child

    step = StepTrainer.training_step

    def training_step(self: StepTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 4:
            os.kill(children[0], signal.SIGKILL)
        return step(self, *args, **kwargs)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(world.subprocess, "Popen", popen)
        patch.setattr(StepTrainer, "training_step", training_step)
        with pytest.raises(TransientError, match="another process of this training was lost"):
            train(base, data, folder, processes=2, **SETTINGS)
    assert LocalItems(folder).names() == ["step_3"]
    said: list[str] = []
    outcome = train(base, data, folder, processes=2, say=said.append, **SETTINGS)
    assert said == ["goes on from step 3 of 5"]
    require_planned(folder, data)
    assert LocalItems(folder).names() == LocalItems(alone[0]).names()
    assert distance(folder, alone[0]) < 1e-5
    assert losses(outcome) == pytest.approx(losses(alone[1]), rel=1e-5)


def test_half_a_launcher_s_environment_is_refused(base: Any, data: Any, tmp_path: Path, monkeypatch: Any) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("RANK", "0")
        with pytest.raises(ConfigError, match="RANK is set, but MASTER_ADDR, MASTER_PORT, WORLD_SIZE is not"):
            train(base, data, tmp_path / "run")


def test_what_a_world_of_one_says() -> None:
    one = world.World()
    assert one.is_first
    assert one.total(1.5, 2) == [1.5, 2]
    assert one.gather("abc") == ["abc"]
