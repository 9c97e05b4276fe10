"""Processes that train along with the first one: how they end, and what becomes of the training."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from ml.training.runs import cut, data_of, of_train, schedule, train

from jobs.contracts.errors import StoppedError
from jobs.ml.training import world
from jobs.ml.training.trainer import StepTrainer


def test_a_follower_that_is_told_to_stop_does_not_pass_for_done(
    base: Any, chunks: Any, encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster would not start it again, and the first process would wait for it in vain."""
    data = data_of(chunks, encoder, schedule(cut(of_train(chunks, 8), 2)))
    children: list[Any] = []
    original, step = world.subprocess.Popen, StepTrainer.training_step

    def popen(*args: Any, **kwargs: Any) -> Any:
        children.append(original(*args, **kwargs))
        return children[-1]

    def training_step(self: StepTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 1:
            children[0].send_signal(signal.SIGTERM)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(world.subprocess, "Popen", popen)
    monkeypatch.setattr(StepTrainer, "training_step", training_step)
    with pytest.raises(StoppedError, match="told to stop at step"):
        train(base, data, tmp_path / "run", processes=2, dropout=0.0)
    assert [child.returncode for child in children] == [143]


@pytest.mark.parametrize(("command", "told"), [("sleep 60", "exit code -9"), ("exit 3", "exit code 3"), ("true", "")])
def test_a_process_that_does_not_end_well_behind_the_training(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: str, told: str
) -> None:
    original = world.subprocess.Popen
    monkeypatch.setattr(world.subprocess, "Popen", lambda _command, **kwargs: original(["sh", "-c", command], **kwargs))
    monkeypatch.setattr(world, "_PATIENCE_SECONDS", 1)
    with world._followers("cpu", 2):
        pass
    err = capfd.readouterr().err
    assert told in err
    assert bool(err) == bool(told)
