"""The evaluate stage given what is odd: personas, checkpoints that are none of its own, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from pathlib import Path

import pytest

with contextlib.suppress(ImportError):  # without torch `world` skips these tests
    from evaluating import World, refused
    from ml.tiny_embedder import tiny_embedder

from jobs.contracts.errors import ConfigError, InputError, IntegrityError, MissingInputError, UsageError
from jobs.items import COMPLETE, LocalItems


def test_a_persona_that_never_wrote_is_asked_nothing(world: World, tmp_path: Path) -> None:
    less = world.run(tmp_path / "out.json", persona=("eve@example.org",))
    assert less["base"]["rag_accuracy_at_5"] is None
    assert sum(less["val"]["num_questions"]) == 0
    assert any("eve@example.org" in note for note in less["notes"])


def test_a_persona_answers_alone(world: World, tmp_path: Path) -> None:
    many = {"max_queries": 500, "max_new_tokens": 1}
    less = world.run(tmp_path / "out.json", persona=("ann@example.org",), **many)
    everybody = world.run(tmp_path / "all.json", **many)
    assert 0 < sum(less["val"]["num_questions"]) < sum(everybody["val"]["num_questions"])


def test_an_item_that_is_not_complete_is_left_out(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.paths["checkpoints"][0], tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / "step_12" / COMPLETE).unlink()
    less = world.run(tmp_path / "out.json", {"checkpoints": [tmp_path / "checkpoints"]}, max_queries=0)
    assert [one["path"] for one in less["checkpoints"]] == ["step_4"]


def test_a_link_beside_the_checkpoints_is_none_of_them(world: World, tmp_path: Path) -> None:
    """`refrain promote` puts one there."""
    shutil.copytree(world.paths["checkpoints"][0], tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / "production").symlink_to("step_4")
    less = world.run(tmp_path / "out.json", {"checkpoints": [tmp_path / "checkpoints"]}, max_queries=0)
    assert [one["path"] for one in less["checkpoints"]] == ["step_4", "step_12"]


def test_no_checkpoints(world: World, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no checkpoints"):
        refused(world, tmp_path, {"checkpoints": [tmp_path]})
    with pytest.raises(MissingInputError, match="no such folder"):
        refused(world, tmp_path, {"checkpoints": [tmp_path / "none"]})


def test_no_val_thread_left(world: World, tmp_path: Path) -> None:
    (tmp_path / "val.json").write_text("[]")
    with pytest.raises(InputError, match="no val thread is left"):
        refused(world, tmp_path, {"val_set": [tmp_path / "val.json"]})
    with pytest.raises(UsageError, match="val_set"):
        refused(world.without("val_set"), tmp_path, {})


def test_a_damaged_checkpoint(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(world.paths["checkpoints"][0], folder)
    weights = folder / "step_12" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match="digest differs"):
        refused(world, tmp_path, {"checkpoints": [folder]})
    LocalItems(folder).publish("step_12")  # its digests say so too now
    with pytest.raises(InputError, match=r"damaged|safetensors|too short|incomplete|cut"):
        refused(world, tmp_path, {"checkpoints": [folder]})


def test_a_checkpoint_of_another_base(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(world.paths["checkpoints"][0], folder)
    origin = folder / "step_4" / "refrain.json"
    origin.write_text(json.dumps(json.loads(origin.read_text()) | {"base_digest": "0" * 32, "base": "org/other"}))
    LocalItems(folder).publish("step_4")
    with pytest.raises(ConfigError, match="another base model"):
        refused(world, tmp_path, {"checkpoints": [folder]})


def test_an_index_of_another_embedding_model(world: World, tmp_path: Path) -> None:
    other = tiny_embedder(tmp_path / "other", seed=1)
    with pytest.raises(ConfigError, match="another embedding model"):
        refused(world, tmp_path, {}, embedding_model=str(other))


def test_a_missing_base_model(world: World, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such folder"):
        refused(world, tmp_path, {}, base=str(tmp_path / "none"))


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_a_number(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: float
) -> None:
    from jobs.ml.evaluating import Scorer

    monkeypatch.setattr(Scorer, "losses", lambda _, examples: [loss] * len(examples))
    with pytest.raises(InputError, match="not a number"):
        refused(world, tmp_path, {}, max_queries=0)


def test_a_val_list_that_names_a_train_chunk(world: World, tmp_path: Path) -> None:
    train = json.loads((world.folder / "new_train.json").read_text())[:1]
    (tmp_path / "val.json").write_text(json.dumps(train))
    with pytest.raises(IntegrityError, match="is of train, not of val"):
        refused(world, tmp_path, {"val_set": [tmp_path / "val.json"]})
