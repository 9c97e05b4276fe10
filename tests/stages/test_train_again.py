"""`train --again` over an archive: what is damaged is made again, and nothing passes for whole that is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trainable
from trainable import CYCLE, written

from jobs.contracts.artifacts import artifact_key, marker_key
from jobs.contracts.errors import MissingInputError
from jobs.contracts.store import open_store
from jobs.runner import run_in_store
from jobs.stages import Inputs, Outputs
from jobs.stages import train as stage

pytest.importorskip("torch")

WEIGHTS = "step_3/adapter_model.safetensors"


def test_damage_that_a_later_stage_meets_is_healed(ready: Path, url: str) -> None:
    first = run_in_store("train", trainable.settings(ready), url=url, cycle=CYCLE)
    before, store = written(url), open_store(url)
    key = f"{artifact_key(CYCLE, 'train', 'checkpoints')}/{WEIGHTS}"
    store.put(key, before[key][:-1] + b"?")
    assert run_in_store("train", trainable.settings(ready), url=url, cycle=CYCLE, again=True) == first
    assert written(url) == before
    store.delete(key)
    store.delete(marker_key(CYCLE, "train"))  # as where the stage was killed just before its end
    assert run_in_store("train", trainable.settings(ready), url=url, cycle=CYCLE) == first
    assert written(url) == before


def test_an_item_that_is_not_whole_does_not_count(ready: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, prefix = open_store(url), artifact_key(CYCLE, "train", "checkpoints")

    def run(_config: Any, _inputs: Inputs, outputs: Outputs) -> dict[str, Any]:
        items = outputs.items("checkpoints")
        (items.folder / "step_3").mkdir(parents=True)
        (items.folder / WEIGHTS).write_text("weights")
        items.publish("step_3")
        store.delete(f"{prefix}/{WEIGHTS}")
        return {}

    monkeypatch.setattr(stage, "run", run)
    with pytest.raises(MissingInputError, match=WEIGHTS):
        run_in_store("train", trainable.settings(ready), url=url, cycle=CYCLE)
    assert not store.exists(marker_key(CYCLE, "train"))
