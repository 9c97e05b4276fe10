"""What the train stage starts from, and what is in service, which it does not train over."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import orjson
import pytest
import trainable
from trainable import CYCLE, artifact, die_at_step, in_a_child, middle, train, written

from jobs.contracts.artifacts import artifact_key, production_key
from jobs.contracts.errors import ConfigError
from jobs.contracts.store import open_store
from jobs.items import LocalItems
from jobs.runner import run_in_store
from jobs.stages import Inputs, Outputs
from jobs.stages.train import _in_use

pytest.importorskip("torch")


class TestIncumbent:
    def test_it_starts_from_the_adapter_in_service(self, ready: Path, url: str, undisturbed: Any) -> None:
        """What an earlier cycle has promoted."""
        from jobs.contracts.artifacts import production_key

        put_into_service(url, undisturbed)
        assert open_store(url).exists(production_key(1))
        result = train(ready, url)
        assert result["starts_from"] == "incumbent"
        assert result["first_loss"] == pytest.approx(undisturbed[1]["last_loss"], abs=0.1)
        assert result["first_loss"] < undisturbed[1]["first_loss"] - 0.04
        assert result["adapter_sha256"] != undisturbed[1]["adapter_sha256"]
        assert artifact(url, "exposures")["starts_from"] == undisturbed[1]["adapter_sha256"]

    def test_or_from_a_fresh_one_where_that_is_asked(self, ready: Path, url: str, undisturbed: Any) -> None:
        put_into_service(url, undisturbed)
        result = train(ready, url, start_from="Base")
        assert result["starts_from"] == "base"
        assert result["first_loss"] == undisturbed[1]["first_loss"]

    def test_a_checkpoint_of_a_run_with_another_start_is_not_gone_on_from(
        self, ready: Path, url: str, undisturbed: Any
    ) -> None:
        def work() -> None:
            die_at_step(middle(undisturbed[0]), signal.SIGKILL)
            train(ready, url)

        assert in_a_child(work) == -signal.SIGKILL
        put_into_service(url, undisturbed)
        result = train(ready, url)
        assert result["starts_from"] == "incumbent"
        assert result["first_loss"] < undisturbed[1]["first_loss"] - 0.04

    def test_a_base_that_has_moved_is_still_the_same(
        self, ready: Path, url: str, tmp_path: Path, undisturbed: Any
    ) -> None:
        def work() -> None:
            die_at_step(int(saved[-1].removeprefix("step_")) - 1, signal.SIGKILL)
            train(ready, url)

        saved = artifact(undisturbed[0], "trainer_state")["refrain"]["checkpoints"]
        assert in_a_child(work) == -signal.SIGKILL
        moved = str(shutil.copytree(ready / "base", tmp_path / "moved"))
        result = train(ready, url, base=moved)
        assert result["adapter_sha256"] == undisturbed[1]["adapter_sha256"]
        folder = artifact_key(CYCLE, "train", "checkpoints")
        store = open_store(url, read_only=True)
        bases = [orjson.loads(store.get(f"{folder}/{name}/refrain.json"))["base"] for name in saved]
        assert bases == [str(ready / "base")] * (len(saved) - 1) + [moved], "it went on from its last checkpoint"

    def test_what_is_in_service_is_not_trained_over(self, ready: Path, tmp_path: Path, undisturbed: Any) -> None:
        """Not by other settings, and not where a rollback alone would bring it back."""
        shutil.copytree(Path(undisturbed[0].removeprefix("file://")), tmp_path / "archive")
        url = (tmp_path / "archive").as_uri()
        store = open_store(url)
        adapter = f"{artifact_key(CYCLE, 'train', 'checkpoints')}/step_3"
        record = {"seq": 1, "action": "promote", "cycle": CYCLE, "adapter": adapter, "sha256": "a" * 64}
        store.put(production_key(1), orjson.dumps(record | {"window_idx": 0, "decision": {}}))
        later = {"seq": 2, "action": "rollback", "cycle": "", "adapter": None, "sha256": "", "window_idx": -1}
        store.put(production_key(2), orjson.dumps(later | {"decision": {}}))
        before = written(url)
        config = trainable.settings(ready, learning_rate=1e-3)
        with pytest.raises(ConfigError, match="step_3 is in use") as told:
            run_in_store("train", config, url=url, cycle=CYCLE, again=True)
        assert "another cycle's name" in told.value.hint
        kept = {key: data for key, data in before.items() if "/train/checkpoints/" in key}
        assert kept
        assert kept.items() <= written(url).items()
        same = run_in_store("train", trainable.settings(ready), url=url, cycle=CYCLE, again=True)
        assert same["adapter_sha256"] == undisturbed[1]["adapter_sha256"]

    def test_nor_what_a_link_or_the_start_names_among_plain_files(
        self, ready: Path, tmp_path: Path, undisturbed: Any
    ) -> None:
        from jobs.ml.base_model import find_base
        from jobs.ml.training.checkpoints import Checkpoints

        folder = tmp_path / "checkpoints"
        key = artifact_key(CYCLE, "train", "checkpoints")
        for name in ("step_3", "step_6"):
            shutil.copytree(Path(undisturbed[0].removeprefix("file://")) / key / name, folder / name)
        inputs, outputs = Inputs({}), Outputs({"checkpoints": folder})
        assert set(_in_use(inputs, outputs, None)) == set()
        assert set(_in_use(inputs, outputs, tmp_path / "elsewhere" / "step_3")) == set()
        assert set(_in_use(inputs, outputs, folder / "step_3")) == {"step_3"}
        (folder / "production").symlink_to("step_6")
        assert set(_in_use(inputs, outputs, None)) == {"step_6"}
        checkpoints = Checkpoints(LocalItems(folder), find_base(str(ready / "base")), {6}, {"step_6"})
        with pytest.raises(ConfigError, match="step_6 is in use"):
            checkpoints.resume("another run")
        checkpoints.abandon()
        assert LocalItems(folder).names() == ["step_3", "step_6"]


def put_into_service(url: str, undisturbed: Any) -> None:
    """The last checkpoint of the undisturbed run, as if a cycle before this one had promoted it."""
    from jobs.contracts.artifacts import production_key

    store, source = open_store(url), open_store(undisturbed[0], read_only=True)
    name = artifact(undisturbed[0], "trainer_state")["refrain"]["checkpoints"][-1]
    prefix = f"cycles/before/train/checkpoints/{name}"
    own = f"{artifact_key(CYCLE, 'train', 'checkpoints')}/{name}"
    for key in source.list(f"{own}/"):
        store.put(key.replace(own, prefix), source.get(key))
    record = {
        "seq": 1,
        "action": "promote",
        "cycle": "before",
        "adapter": prefix,
        "sha256": undisturbed[1]["adapter_sha256"],
        "window_idx": 0,
        "decision": {},
    }
    store.put(production_key(1), orjson.dumps(record))
