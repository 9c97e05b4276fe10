"""Runs in one process: what is trained on, what comes of it, and what stops it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ml.training.runs import SETTINGS, WEIGHTS, cut, data_of, digest, losses, newest, of_train, schedule, train, tree
from safetensors.torch import load_file

from jobs.contracts.errors import ConfigError, InputError, IntegrityError
from jobs.items import LocalItems
from jobs.ml.loss import target_losses
from jobs.ml.training import run as run_module
from jobs.ml.training.settings import Adapter, Hyperparameters
from jobs.ml.training.start import Wanted, fresh_start
from jobs.ml.training.trainer import StepTrainer


def test_checkpoints_are_every_few_steps_and_at_each_epoch_s_end(undisturbed: Any) -> None:
    folder, outcome = undisturbed
    assert LocalItems(folder).names() == ["step_3", "step_4", "step_6", "step_7"]
    state = outcome.trainer_state
    assert state["global_step"] == state["max_steps"] == 7
    assert [line["step"] for line in state["log_history"] if "loss" in line] == list(range(1, 8))
    assert [line["epoch"] for line in state["log_history"] if "loss" in line][3::3] == [1.0, 2.0]
    evaluated = {line["step"]: line["eval_loss"] for line in state["log_history"] if "eval_loss" in line}
    assert list(evaluated) == [3, 4, 6, 7]
    assert state["best_metric"] == min(evaluated.values())
    assert state["best_model_checkpoint"] == f"step_{min(evaluated, key=evaluated.get)}"
    told = json.dumps(state)
    assert not any(word in told for word in ("second", "runtime", "time", str(folder)))


def test_it_learns_and_all_of_it_is_decided_by_the_seed(base: Any, data: Any, undisturbed: Any, tmp_path: Path) -> None:
    folder, outcome = undisturbed
    first, *_, last = losses(outcome)
    assert last < first - 0.08, "nats per token, after seven steps"
    assert losses(outcome, "eval_loss")[-1] < first - 0.08
    again = train(base, data, tmp_path / "again")
    assert tree(tmp_path / "again") == tree(folder)
    assert again.trainer_state == outcome.trainer_state
    train(base, data, tmp_path / "other", seed=8)
    assert digest(tmp_path / "other") != digest(folder)
    wanted = Wanted(base, Adapter(4, 8.0, 0.1, "all-linear"), Hyperparameters(**SETTINGS), torch.device("cpu"), 10)
    start = fresh_start(wanted)
    fresh = {name: one for name, one in start.peft_model.named_parameters() if one.requires_grad}
    trained = load_file(newest(folder) / WEIGHTS)
    assert len(trained) == len(fresh)
    for name, weight in trained.items():
        assert not torch.equal(weight, fresh[name.replace("weight", "default.weight")]), name


def test_the_adapter_has_just_the_weights_that_it_should_have(base: Any, undisturbed: Any) -> None:
    """Llama of width 48, 2 of 4 heads for keys and values, 96 in the middle, 2 layers; rank 4."""
    shapes = [(48, 48), (48, 24), (48, 24), (48, 48), (48, 96), (48, 96), (96, 48)]
    assert undisturbed[1].num_trainable == 2 * 4 * sum(a + b for a, b in shapes)
    weights = load_file(newest(undisturbed[0]) / WEIGHTS)
    assert sum(weight.numel() for weight in weights.values()) == undisturbed[1].num_trainable


def test_no_batch_of_unequal_epochs_is_lost(
    base: Any, chunks: Any, encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [chunk.chunk_id for chunk in of_train(chunks, 36)]
    plan = schedule(*([[one] for one in ids[:size]] for size in (24, 16, 32)))
    computed: list[str] = []
    original = StepTrainer._tensors

    def noting(self: StepTrainer, examples: Any) -> Any:
        if self.model.training:
            computed.extend(example.chunk_id for example in examples)
        return original(self, examples)

    monkeypatch.setattr(StepTrainer, "_tensors", noting)
    outcome = train(base, data_of(chunks, encoder, plan, num_val=0), tmp_path / "run", save_steps=100)
    assert outcome.num_steps == 72
    assert computed == ids[:24] + ids[:16] + ids[:32]
    assert LocalItems(tmp_path / "run").names() == ["step_24", "step_40", "step_72"]


def test_what_was_not_in_the_schedule_is_found_out(
    base: Any, data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = StepTrainer.shares

    def other(self: StepTrainer, number: int) -> Any:
        return original(self, 1 if number == 5 else number)

    monkeypatch.setattr(StepTrainer, "shares", other)
    with pytest.raises(IntegrityError, match="is not what the schedule has there"):
        train(base, data, tmp_path / "run")


class Plain(StepTrainer):
    """Plain gradient descent, for which rounding alone makes a difference."""

    def create_optimizer(self, model: Any = None) -> Any:
        self.optimizer = torch.optim.SGD([one for one in self.model.parameters() if one.requires_grad], lr=5.0)
        return self.optimizer


class MeansOfMeans(Plain):
    """The mistake: each micro-batch's mean loss counts alike, however few targets it has."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        whole = self.data.num_targets(self.data.steps[self.state.global_step])
        number = iter(inputs)

        def mean(**tensors: Any) -> Any:
            targets = sum(self.data.examples[name].num_targets for name in next(number))
            return model(**tensors) * whole / (targets * len(inputs))

        mean.train = model.train  # type: ignore[attr-defined]
        return super().training_step(mean, inputs, num_items_in_batch)


def relative_distance(one: Path, other: Path) -> float:
    mine, theirs = ({n: t.double() for n, t in load_file(newest(path) / WEIGHTS).items()} for path in (one, other))
    return math.sqrt(
        sum(float((mine[name] - theirs[name]).square().sum()) for name in mine)
        / sum(float(theirs[name].square().sum()) for name in mine)
    )


def test_accumulation_changes_nothing_but_rounding(
    base: Any, chunks: Any, encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 x 32 against 32 x 1 for four steps, as batches of the schedule and as micro-batches; texts of all lengths."""
    picked = sorted(of_train(chunks, 40), key=lambda chunk: chunk.num_tokens)[:32]
    assert len({chunk.num_target_tokens for chunk in picked}) > 10
    whole, single = cut(picked, 32), cut(picked, 1)
    settings = {"dropout": 0.0, "learning_rate_schedule": "constant", "warmup_ratio": 0.0}
    monkeypatch.setattr(run_module, "StepTrainer", Plain)
    at_once = data_of(chunks, encoder, schedule(*[whole] * 4), num_val=0)
    outcome = train(base, at_once, tmp_path / "1x32", **settings)
    assert losses(outcome)[-1] < losses(outcome)[0] - 0.01
    train(base, at_once, tmp_path / "micro", micro_batch_tokens=1, **settings)
    one_by_one = data_of(chunks, encoder, schedule(*[single] * 4), accumulation=32, num_val=0)
    train(base, one_by_one, tmp_path / "32x1", **settings)
    assert relative_distance(tmp_path / "micro", tmp_path / "1x32") < 1e-5
    assert relative_distance(tmp_path / "32x1", tmp_path / "1x32") < 1e-5
    monkeypatch.setattr(run_module, "StepTrainer", MeansOfMeans)
    train(base, one_by_one, tmp_path / "means", **settings)
    assert relative_distance(tmp_path / "means", tmp_path / "1x32") > 1e-3


def test_a_loss_that_is_not_finite_stops_before_it_changes_a_weight(
    base: Any, data: Any, plan: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(InputError, match=r"at step 2; no weight was changed") as caught:
        train(base, data, folder, learning_rate=1e30, warmup_ratio=0.0, save_steps=1, learning_rate_schedule="constant")
    for name in plan["epochs"][0]["batches"][1]["chunk_ids"]:
        assert name in caught.value.where
    assert LocalItems(folder).names() == ["step_1"]
    weights = load_file(folder / "step_1" / WEIGHTS)
    assert all(bool(torch.isfinite(weight).all()) for weight in weights.values())


def test_the_val_loss_is_that_of_the_set_s_tokens_together(model: Any, base: Any, data: Any, undisturbed: Any) -> None:
    from jobs.ml.adapters import load_adapter

    peft_model = load_adapter(model, newest(undisturbed[0]), base=base)
    parts = target_losses(peft_model, data.val_examples, max_tokens=1000)
    expected = np.concatenate(parts).sum() / sum(len(part) for part in parts)
    assert len({len(part) for part in parts}) > 1
    assert losses(undisturbed[1], "eval_loss")[-1] == pytest.approx(expected, rel=1e-6)


def test_masked_messages_are_left_out_of_the_val_loss(chunks: Any, encoder: Any) -> None:
    from jobs.contracts.records import short_digest

    chunk = next(one for one in chunks if one.split == "val" and sum(not m.context for m in one.messages) > 1)
    own = [message for message in chunk.messages if not message.context]
    example = encoder.example(chunk, masked=[short_digest(own[0].message_id)])
    assert example.num_targets == sum(message.num_tokens for message in own[1:])


def test_early_stopping(base: Any, data: Any, tmp_path: Path) -> None:
    """No fall is large enough for a min_delta of 100: the first evaluation counts, two more do not, and that was it."""
    folder = tmp_path / "run"
    outcome = train(base, data, folder, patience=2, min_delta=100.0, save_steps=1)
    assert outcome.num_steps == 3
    assert LocalItems(folder).names() == ["step_1", "step_2", "step_3"]
    assert outcome.trainer_state["refrain"]["stopped_early"] is True
    before = tree(folder)
    assert train(base, data, folder, patience=2, min_delta=100.0, save_steps=1) == outcome
    assert tree(folder) == before


def test_a_process_has_one_gpu_of_those_that_it_sees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Trainer would put the model into nn.DataParallel otherwise, whose losses are no single number."""
    from transformers import TrainingArguments

    from jobs.ml.training.arguments import trainer_arguments
    from jobs.ml.training.world import World

    set_up = TrainingArguments.__post_init__

    def sees_two(self: Any) -> None:
        set_up(self)
        self._n_gpu = 2

    monkeypatch.setattr(TrainingArguments, "__post_init__", sees_two)
    assert TrainingArguments(output_dir=str(tmp_path), use_cpu=True).n_gpu == 2
    settings = Hyperparameters(**SETTINGS)
    assert trainer_arguments(settings, 1, device=torch.device("cpu"), world=World(), scratch=tmp_path).n_gpu == 1


def test_a_text_that_the_model_cannot_read_is_told_before_training(
    base: Any, chunks: Any, encoder: Any, tmp_path: Path
) -> None:
    from dataclasses import replace

    data = data_of(chunks, encoder, schedule(cut(of_train(chunks, 4), 4)))
    name, example = next(iter(data.examples.items()))
    long = replace(
        example, **{key: np.resize(getattr(example, key), 5000) for key in ("input_ids", "labels", "message")}
    )
    with pytest.raises(ConfigError, match="4999 tokens, but the base model reads 4096"):
        train(base, replace(data, examples=dict(data.examples) | {name: long}), tmp_path / "run")


def test_gradient_checkpointing_changes_nothing_but_memory(base: Any, data: Any, tmp_path: Path) -> None:
    train(base, data, tmp_path / "plain", dropout=0.0)
    train(base, data, tmp_path / "twice", dropout=0.0, gradient_checkpointing=True)
    assert relative_distance(tmp_path / "twice", tmp_path / "plain") < 1e-5


@pytest.mark.parametrize("setting", [{"weight_decay": 1.0}, {"max_grad_norm": 1e-3}], ids=lambda one: next(iter(one)))
def test_a_setting_of_the_optimiser_is_heeded(
    base: Any, data: Any, undisturbed: Any, tmp_path: Path, setting: dict[str, float]
) -> None:
    train(base, data, tmp_path / "run", **setting)
    assert digest(tmp_path / "run") != digest(undisturbed[0])
    if "weight_decay" in setting:
        found, before = (load_file(newest(one) / WEIGHTS) for one in (tmp_path / "run", undisturbed[0]))
        size, size_before = (sum(float(one.square().sum()) for one in some.values()) for some in (found, before))
        assert size < 0.95 * size_before


def test_the_learning_rate_of_each_step_is_logged(undisturbed: Any) -> None:
    """One step of warm-up, then half a cosine over six."""
    rates = losses(undisturbed[1], "learning_rate")
    assert rates[0] == pytest.approx(1e-2)
    assert rates[1:] == pytest.approx([1e-2 * (1 + math.cos(math.pi * number / 6)) for number in range(6)])
