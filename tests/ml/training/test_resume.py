"""Runs that are killed, told to stop or find damage: what an undisturbed one leaves comes of them all the same."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ml.training.runs import WEIGHTS, newest, train, tree
from trainable import in_a_child

from jobs.contracts.errors import OutputError, StoppedError, TransientError
from jobs.items import LocalItems
from jobs.ml.training.trainer import StepTrainer


def dying_at(step: int, turn: int | None = None) -> Callable[..., Any]:
    """A `training_step` that kills its process at a step: before it, or behind so many of its micro-batches."""
    original_step, original_tensors = StepTrainer.training_step, StepTrainer._tensors
    count = [0]

    def tensors(self: StepTrainer, examples: Any) -> Any:
        if self.model.training and self.state.global_step == step and turn is not None:
            if count[0] == turn:
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1
        return original_tensors(self, examples)

    def training_step(self: StepTrainer, *args: Any, **kwargs: Any) -> Any:
        if turn is None and self.state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original_step(self, *args, **kwargs)

    StepTrainer._tensors = tensors  # type: ignore[method-assign]
    return training_step


@pytest.mark.parametrize(
    ("step", "turn"),
    [(0, None), (2, None), (2, 1), (3, None), (4, None), (5, 2), (6, None)],
    ids=["first", "before-any-checkpoint", "mid-accumulation", "behind-one", "epoch-edge", "mid-again", "last"],
)
def test_killed_and_run_again_it_leaves_the_bytes_of_an_undisturbed_run(
    base: Any, data: Any, tmp_path: Path, undisturbed_in_pieces: Any, step: int, turn: int | None
) -> None:
    folder = tmp_path / "run"
    reference, outcome = undisturbed_in_pieces

    def work() -> None:
        StepTrainer.training_step = dying_at(step, turn)  # type: ignore[method-assign]
        train(base, data, folder, **IN_PIECES)

    assert in_a_child(work) == -signal.SIGKILL
    assert len(LocalItems(folder).names()) < 4
    said: list[str] = []
    again = train(base, data, folder, say=said.append, **IN_PIECES)
    if LocalItems(folder).names() and step > 3:
        assert any("goes on from step" in text for text in said)
    assert tree(folder) == tree(reference)
    assert again == outcome


IN_PIECES: dict[str, Any] = {"micro_batch_tokens": 600, "patience": 4, "min_delta": 0.5}


@pytest.fixture(scope="module")
def undisturbed_in_pieces(base: Any, data: Any, tmp_path_factory: Any) -> tuple[Path, Any]:
    """With micro-batches, dropout and a patience that is running out."""
    folder = tmp_path_factory.mktemp("pieces") / "run"
    outcome = train(base, data, folder, **IN_PIECES)
    assert json.loads((newest(folder) / "training_state/state.json").read_text())["bad_evaluations"] == 3
    return folder, outcome


@pytest.mark.parametrize(
    "file", ["adapter_model.safetensors", "training_state/optimizer.safetensors", "_COMPLETE.json"]
)
def test_killed_while_it_writes_a_checkpoint(
    base: Any, data: Any, tmp_path: Path, undisturbed_in_pieces: Any, file: str
) -> None:
    folder = tmp_path / "run"

    def work() -> None:
        from jobs.ml.training import checkpoints

        def dying(original: Callable[..., Any]) -> Callable[..., Any]:
            def write(*args: Any, **kwargs: Any) -> Any:
                result = original(*args, **kwargs)
                if (folder / "step_4" / file).exists():
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return write

        checkpoints.write_adapter = dying(checkpoints.write_adapter)
        checkpoints.save_file = dying(checkpoints.save_file)
        LocalItems.publish = dying(LocalItems.publish)  # type: ignore[method-assign]
        train(base, data, folder, **IN_PIECES)

    assert in_a_child(work) == -signal.SIGKILL
    assert (folder / "step_4" / file).exists()
    train(base, data, folder, **IN_PIECES)
    assert tree(folder) == tree(undisturbed_in_pieces[0])


@pytest.mark.parametrize("when", [0, 1, 3, 9, 14, 20])
def test_told_to_stop_it_saves_and_goes_on(
    base: Any, data: Any, tmp_path: Path, undisturbed_in_pieces: Any, when: int
) -> None:
    """Told at whichever of its questions: before a step, in the middle of one, while it evaluates."""
    folder = tmp_path / "run"
    asked = [0]

    def should_stop() -> bool:
        asked[0] += 1
        return asked[0] > when

    with pytest.raises(StoppedError, match=r"told to stop at step \d of 7") as caught:
        train(base, data, folder, should_stop=should_stop, **IN_PIECES)
    assert caught.value.exit_code == 143
    names = LocalItems(folder).names()
    stopped_at = int(caught.value.what.split()[5])
    assert names[-1:] == ([f"step_{stopped_at}"] if stopped_at else [])
    train(base, data, folder, **IN_PIECES)
    assert tree(folder) == tree(undisturbed_in_pieces[0])


def test_told_to_stop_again_and_again_it_still_gets_there(
    base: Any, data: Any, tmp_path: Path, undisturbed_in_pieces: Any
) -> None:
    """Each run does one step, or not even that; what is due behind a step may be left to the next run."""
    folder = tmp_path / "run"
    for number in range(40):
        asked = [0]

        def should_stop(asked: list[int] = asked, patience: int = 4 + number % 3) -> bool:
            asked[0] += 1
            return asked[0] > patience

        try:
            train(base, data, folder, should_stop=should_stop, **IN_PIECES)
            break
        except StoppedError:
            continue
    else:
        pytest.fail("never done")
    assert number > 3
    assert tree(folder) == tree(undisturbed_in_pieces[0])


def test_a_checkpoint_of_other_settings_is_deleted_and_not_gone_on_from(
    base: Any, data: Any, tmp_path: Path, undisturbed: Any
) -> None:
    folder = tmp_path / "run"
    train(base, data, folder, learning_rate=1e-3, save_steps=2)
    (folder / "notes_2024").mkdir()
    said: list[str] = []
    train(base, data, folder, say=said.append)
    assert not any("goes on" in text for text in said)
    assert (folder / "notes_2024").is_dir(), "somebody else's"
    (folder / "notes_2024").rmdir()
    assert tree(folder) == tree(undisturbed[0])


def test_a_damaged_checkpoint_is_not_gone_on_from(base: Any, data: Any, tmp_path: Path, undisturbed: Any) -> None:
    folder = tmp_path / "run"
    train(base, data, folder)
    weights = newest(folder) / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    said: list[str] = []
    train(base, data, folder, say=said.append)
    assert said == ["goes on from step 6 of 7"]
    assert tree(folder) == tree(undisturbed[0])


@pytest.mark.parametrize("is_stopped", [False, True])
@pytest.mark.parametrize("harm", ["changed", "cut", "gone"])
def test_a_damaged_checkpoint_before_the_newest_is_made_again(
    base: Any, data: Any, tmp_path: Path, undisturbed: Any, is_stopped: bool, harm: str
) -> None:
    """From the one before it where that has its state still, else from the start."""
    folder, said = tmp_path / "run", list[str]()
    if not is_stopped:
        shutil.copytree(undisturbed[0], folder)
    else:
        with pytest.raises(StoppedError):
            train(base, data, folder, should_stop=lambda: LocalItems(folder).names()[-1:] == ["step_4"])
    weights = folder / "step_4" / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes({"changed": whole[:-1] + b"?", "cut": whole[:-1], "gone": b""}[harm])
    if harm == "gone":
        weights.unlink()
    train(base, data, folder, say=said.append)
    assert said == (["goes on from step 3 of 7"] if is_stopped else [])
    assert tree(folder) == tree(undisturbed[0])


def test_nothing_is_pickled(base: Any, data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a pickle")

    for module, names in (
        (pickle, ("load", "loads", "dump", "dumps", "Pickler", "Unpickler")),
        (torch, ("load", "save")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    asked = [0]

    def should_stop() -> bool:
        asked[0] += 1
        return asked[0] > 12

    with pytest.raises(StoppedError):
        train(base, data, tmp_path / "run", should_stop=should_stop)
    train(base, data, tmp_path / "run")
    assert {path.suffix for path in (tmp_path / "run").rglob("*") if path.is_file()} == {".json", ".safetensors"}


def test_the_state_to_go_on_from_is_kept_of_the_newest_two(undisturbed: Any) -> None:
    folder = undisturbed[0]
    assert [path.parent.name for path in sorted(folder.glob("*/training_state"))] == ["step_6", "step_7"]


def test_an_upload_that_fails_ends_the_run_and_the_next_one_goes_on(
    base: Any, data: Any, tmp_path: Path, undisturbed: Any
) -> None:
    folder = tmp_path / "run"
    publish = LocalItems.publish

    def failing(self: LocalItems, name: str) -> None:
        if name == "step_4":
            raise TransientError("the store does not answer")
        publish(self, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalItems, "publish", failing)
        with pytest.raises(TransientError, match="the store does not answer"):
            train(base, data, folder)
    assert LocalItems(folder).names() == ["step_3"]
    train(base, data, folder)
    assert tree(folder) == tree(undisturbed[0])


@pytest.mark.parametrize(
    ("kept", "num_bytes", "file"),
    [([], 20_000, WEIGHTS), (["step_3"], 40_000, "training_state/optimizer.safetensors")],
    ids=["the-first-adapter", "the-second-optimiser"],
)
def test_a_full_disk_loses_nothing(
    base: Any,
    data: Any,
    tmp_path: Path,
    undisturbed: Any,
    limit_files: Any,
    monkeypatch: pytest.MonkeyPatch,
    kept: list[str],
    num_bytes: int,
    file: str,
) -> None:
    """An adapter has some 27,000 bytes, its optimiser's moments some 50,000."""
    folder, publish, said = tmp_path / "run", LocalItems.publish, []

    def filling(self: LocalItems, name: str) -> None:
        publish(self, name)
        limit_files(num_bytes)

    if kept:
        monkeypatch.setattr(LocalItems, "publish", filling)
    else:
        limit_files(num_bytes)
    with pytest.raises(OutputError, match="cannot be written") as caught:
        train(base, data, folder)
    assert caught.value.where.endswith(file)
    assert LocalItems(folder).names() == kept
    monkeypatch.undo()
    limit_files(resource.RLIM_INFINITY)
    train(base, data, folder, say=said.append)
    assert said == ["goes on from step 3 of 7"] * len(kept)
    assert tree(folder) == tree(undisturbed[0])
