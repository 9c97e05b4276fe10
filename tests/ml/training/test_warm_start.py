"""Runs that start from the adapter in service: where they begin, and which adapters are refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ml.training.runs import WEIGHTS, digest, losses, newest, train
from safetensors.torch import load_file

from jobs.contracts.errors import ConfigError, IntegrityError
from jobs.ml.loss import target_losses


class TestWarmStart:
    def test_it_begins_with_the_incumbent_s_loss(
        self, base: Any, data: Any, adapter: Path, tmp_path: Path, model: Any
    ) -> None:
        from jobs.ml.adapters import AdapterSwitch

        said: list[str] = []
        outcome = train(base, data, tmp_path / "run", start_from=adapter, say=said.append, learning_rate=1e-12)
        switch = AdapterSwitch(model, base)
        parts = target_losses(switch.use(adapter), data.val_examples, max_tokens=10_000)
        expected = sum(part.sum() for part in parts) / sum(map(len, parts))
        bare = target_losses(switch.use(None), data.val_examples, max_tokens=10_000)
        assert abs(sum(part.sum() for part in bare) / sum(map(len, parts)) - expected) > 1e-3
        assert said == [f"starts from the adapter in service; its loss is {expected:.4f}"]
        assert losses(outcome, "eval_loss")[0] == pytest.approx(expected, rel=1e-5)
        start, end = (load_file(path / WEIGHTS) for path in (adapter, newest(tmp_path / "run")))
        for name, weight in start.items():
            torch.testing.assert_close(end[name], weight, rtol=0, atol=1e-9)

    def test_the_optimiser_is_fresh_and_it_learns_on(self, base: Any, data: Any, adapter: Path, tmp_path: Path) -> None:
        outcome = train(base, data, tmp_path / "run", start_from=adapter)
        assert losses(outcome)[-1] < losses(outcome)[0] - 0.05
        assert outcome.trainer_state["refrain"]["starts_from"] == "incumbent"

    def test_what_the_incumbent_s_training_ended_with_is_not_gone_on_from(
        self, base: Any, data: Any, undisturbed: Any, tmp_path: Path
    ) -> None:
        """Only its weights count: no moments, no step, no log."""
        incumbent, bare = newest(undisturbed[0]), tmp_path / "bare"
        shutil.copytree(incumbent, bare, ignore=shutil.ignore_patterns("training_state"))
        assert (incumbent / "training_state").is_dir()
        outcomes = [train(base, data, tmp_path / f"from_{one.name}", start_from=one) for one in (incumbent, bare)]
        assert outcomes[0] == outcomes[1]
        assert outcomes[0].num_steps == 7
        assert digest(tmp_path / f"from_{incumbent.name}") == digest(tmp_path / "from_bare") != digest(undisturbed[0])

    def test_another_rank_is_refused(self, base: Any, data: Any, adapter: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"(?s)has rank 4 and alpha 8, the settings say rank 8.*startFrom: Base"):
            train(base, data, tmp_path / "run", start_from=adapter, rank=8)

    def test_other_target_modules_are_refused(self, base: Any, data: Any, adapter: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"6,144 weights in 28 matrices.*q_proj there would be 768 in 4"):
            train(base, data, tmp_path / "run", start_from=adapter, target_modules="q_proj")

    def test_one_that_does_not_do_what_it_did_is_refused(
        self, base: Any, data: Any, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from jobs.ml.training import start

        original = start._loaded

        def forgetful(*args: Any) -> Any:
            peft_model = original(*args)
            for name, parameter in peft_model.named_parameters():
                if ".lora_B." in name:
                    parameter.data.zero_()
            return peft_model

        monkeypatch.setattr(start, "_loaded", forgetful)
        with pytest.raises(IntegrityError, match="as it was loaded to be trained"):
            train(base, data, tmp_path / "run", start_from=adapter)
