"""The train stage over an archive: what it refuses, what it writes, and what it tells meanwhile."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from trainable import CYCLE, artifact, train, written

from jobs.assignments.archive import Archive
from jobs.contracts.artifacts import BASE_KEY, artifact_key
from jobs.contracts.errors import ConfigError, InputError, MissingInputError, UsageError
from jobs.contracts.records import short_digest
from jobs.contracts.store import open_store
from jobs.intake.reading import read_data
from jobs.runner import run_in_store
from jobs.stages import Inputs
from jobs.stages.train import _fix_base

torch = pytest.importorskip("torch")


def change(url: str, stage: str, kind: str, edit: Callable[[Any], Any]) -> None:
    """Edit an artifact by hand, as its stage had written it."""
    store = open_store(url)
    value = artifact(url, kind, stage)
    data = orjson.dumps(edit(value) or value)
    store.put(artifact_key(CYCLE, stage, kind), data)
    key = f"cycles/{CYCLE}/{stage}/_SUCCESS.json"
    marker = orjson.loads(store.get(key))
    import hashlib

    marker["outputs"][kind]["sha256"] = hashlib.sha256(data).hexdigest()
    store.put(key, orjson.dumps(marker))


class TestWhatItWrites:
    def test_the_result(self, undisturbed: Any) -> None:
        url, result = undisturbed
        schedule = artifact(url, "schedule", "sample")
        batches = [batch for epoch in schedule["epochs"] for batch in epoch["batches"]]
        chunks = {record["chunk_id"]: record for record in read_data(Archive.open(url, read_only=True), "chunks")}
        seen = Counter(name for batch in batches for name in batch["chunk_ids"])
        assert result["num_steps"] == len(batches)
        assert result["num_epochs"] == 2
        assert result["num_tokens"] == sum(chunks[name]["num_tokens"] * count for name, count in seen.items())
        assert result["num_target_tokens"] > sum(chunks[name]["num_target_tokens"] * n for name, n in seen.items())
        assert result["last_loss"] < result["first_loss"] - 0.05
        assert result["best_eval_loss"] == artifact(url, "trainer_state")["best_metric"]
        assert len(orjson.dumps(result)) < 4096

    def test_checkpoints_are_adapters_that_peft_reads(self, undisturbed: Any, ready: Path, tmp_path: Path) -> None:
        from peft import PeftModel

        from jobs.items import StoreItems
        from jobs.ml.adapters import adapter_digest
        from jobs.ml.base_model import find_base, load_model

        url, result = undisturbed
        items = StoreItems(open_store(url, read_only=True), artifact_key(CYCLE, "train", "checkpoints"), tmp_path)
        assert items.names() == artifact(url, "trainer_state")["refrain"]["checkpoints"]
        assert len(items.names()) == result["num_checkpoints"]
        folder = items.bring(items.names()[-1], state=False)
        assert adapter_digest(folder) == result["adapter_sha256"]
        assert sorted(path.name for path in folder.iterdir()) == [
            "_COMPLETE.json",
            "adapter_config.json",
            "adapter_model.safetensors",
            "refrain.json",
        ]
        model = load_model(find_base(str(ready / "base")), device=torch.device("cpu"))
        loaded = PeftModel.from_pretrained(model, folder)
        assert any(bool(one.any()) for name, one in loaded.named_parameters() if "lora_B" in name)

    def test_how_often_each_message_was_learnt_from(self, undisturbed: Any) -> None:
        url, _ = undisturbed
        exposures = artifact(url, "exposures")
        schedule = artifact(url, "schedule", "sample")
        counts = Counter(
            name for epoch in schedule["epochs"] for batch in epoch["batches"] for name in batch["chunk_ids"]
        )
        assert exposures["chunks"] == dict(counts)
        parts: Counter[tuple[str, int]] = Counter()
        context: Counter[str] = Counter()
        for record in read_data(Archive.open(url, read_only=True), "chunks"):
            for message in record["messages"]:
                if message["context"] and counts[record["chunk_id"]]:
                    context[short_digest(message["message_id"])] += counts[record["chunk_id"]]
                if not message["context"] and counts[record["chunk_id"]]:
                    parts[short_digest(message["message_id"]), message["part"]] += counts[record["chunk_id"]]
        expected = {digest: max(n for (one, _), n in parts.items() if one == digest) for digest, _ in parts}
        assert exposures["messages"] == expected
        assert exposures["context"] == context
        assert exposures["starts_from"] == ""
        assert exposures["histogram"] == {str(times): n for times, n in sorted(Counter(expected.values()).items())}
        assert exposures["num_messages"] == len(expected) > 5
        assert "2" in exposures["histogram"], "both epochs"

    def test_a_second_run_does_nothing(self, undisturbed: Any, ready: Path) -> None:
        url, result = undisturbed
        before = written(url)
        assert train(ready, url) == result | {"finished_before": True}
        assert written(url) == before

    def test_the_base_is_written_down_once(self, undisturbed: Any, ready: Path) -> None:
        from jobs.ml.base_model import find_base

        base = find_base(str(ready / "base"))
        assert orjson.loads(open_store(undisturbed[0], read_only=True).get(BASE_KEY)) == {
            "base": str(ready / "base"),
            "revision": None,
            "digest": base.digest,
            "tokenizer_digest": base.tokenizer_digest,
        }

    def test_a_further_attempt_has_another_seed(self, undisturbed: Any, ready: Path, url: str) -> None:
        from jobs.stages import sample

        run_in_store("sample", sample.Config(epochs=2, batch_size=4, tells=False), url=url, cycle=CYCLE, attempt=1)
        again = train(ready, url, attempt=1)
        assert again["adapter_sha256"] != undisturbed[1]["adapter_sha256"]
        assert again["num_steps"] == undisturbed[1]["num_steps"]


class TestWhatItRefuses:
    @pytest.mark.parametrize("split", ["val", "test"])
    def test_a_schedule_with_a_chunk_that_is_never_trained_on(self, ready: Path, url: str, split: str) -> None:
        chunk = next(one for one in read_data(Archive.open(url, read_only=True), "chunks") if one["split"] == split)

        def edit(schedule: Any) -> None:
            schedule["epochs"][1]["batches"][-1]["chunk_ids"].append(chunk["chunk_id"])

        change(url, "sample", "schedule", edit)
        with pytest.raises(InputError, match=rf"chunk {chunk['chunk_id']} is of {split}, the assignments say"):
            train(ready, url)
        assert not any("checkpoints" in key for key in written(url))

    def test_a_schedule_with_a_chunk_that_nobody_knows(self, ready: Path, url: str) -> None:
        def edit(schedule: Any) -> None:
            schedule["epochs"][0]["batches"][0]["chunk_ids"][0] = "thread_0123456789abcdef01234567_window_0"

        change(url, "sample", "schedule", edit)
        with pytest.raises(InputError, match="is not in the assignments"):
            train(ready, url)

    def test_an_empty_schedule(self, ready: Path, url: str) -> None:
        change(url, "sample", "schedule", lambda schedule: schedule | {"epochs": []})
        with pytest.raises(InputError, match="there is nothing to train on"):
            train(ready, url)

    def test_a_val_set_with_a_train_chunk(self, ready: Path, url: str) -> None:
        chunk = next(one for one in read_data(Archive.open(url, read_only=True), "chunks") if one["split"] == "train")
        change(url, "window", "val_set", lambda entries: [*entries, {"chunk_id": chunk["chunk_id"]}])
        with pytest.raises(InputError, match=rf"chunk {chunk['chunk_id']} is of train"):
            train(ready, url)

    def test_a_model_in_4_bits_that_is_to_be_cut_up(self, ready: Path, url: str) -> None:
        with pytest.raises(ConfigError, match="a base model in 4 bits cannot be cut over the processes"):
            train(ready, url, shard_model=True, quantization="4bit", processes=2)

    def test_early_stopping_without_a_val_set(self, ready: Path, url: str) -> None:
        change(url, "window", "val_set", lambda entries: entries[:0] or [])
        store = open_store(url)
        store.put(artifact_key(CYCLE, "window", "val_set"), b"[]")
        marker = orjson.loads(store.get(f"cycles/{CYCLE}/window/_SUCCESS.json"))
        import hashlib

        marker["outputs"]["val_set"]["sha256"] = hashlib.sha256(b"[]").hexdigest()
        store.put(f"cycles/{CYCLE}/window/_SUCCESS.json", orjson.dumps(marker))
        with pytest.raises(UsageError, match="early stopping needs a val set"):
            train(ready, url, patience=2)
        result = train(ready, url)
        assert result["best_eval_loss"] is None
        assert result["num_checkpoints"] > 1

    def test_a_base_that_is_not_there(self, ready: Path, url: str, tmp_path: Path) -> None:
        from jobs.stages.train import Config

        with pytest.raises(MissingInputError):
            run_in_store("train", Config(str(tmp_path / "nowhere")), url=url, cycle=CYCLE)

    def test_a_base_of_another_tokenizer(self, url: str, tmp_path: Path) -> None:
        from ml.tiny import tiny_base

        from jobs.stages.train import Config

        base = tiny_base(tmp_path / "other", ["another text altogether: xyzzy xyzzy plugh plugh"])
        with pytest.raises(ConfigError, match="the archive was split with a tokenizer of digest"):
            run_in_store("train", Config(str(base), device="cpu"), url=url, cycle=CYCLE)
        assert not open_store(url).exists(BASE_KEY)

    def test_another_base_than_the_archive_s(self, ready: Path, url: str, tmp_path: Path) -> None:
        """The same tokenizer, other weights."""
        import shutil

        from safetensors.torch import load_file, save_file

        from jobs.ml.base_model import find_base
        from jobs.stages.train import Config

        own = find_base(str(ready / "base"))
        value = {"base": own.name, "revision": None, "digest": own.digest, "tokenizer_digest": own.tokenizer_digest}
        open_store(url).put(BASE_KEY, orjson.dumps(value))
        other = tmp_path / "other"
        shutil.copytree(ready / "base", other)
        weights = load_file(other / "model.safetensors")
        weights["model.norm.weight"] += 1
        save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ConfigError) as caught:
            run_in_store("train", Config(str(other), device="cpu"), url=url, cycle=CYCLE)
        assert own.digest in str(caught.value)
        assert find_base(str(other)).digest in str(caught.value)
        assert caught.value.exit_code == 78


def test_alpha_is_twice_the_rank_unless_it_is_said() -> None:
    from jobs.stages.train import Config

    assert [Config(base="b", rank=rank).alpha for rank in (1, 16, 128)] == [2, 32, 256]
    assert Config(base="b", rank=4, alpha=32).alpha == 32


def test_progress_over_http_while_it_runs(ready: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.ml.training.trainer import StepTrainer

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    answers: dict[str, bytes] = {}
    original = StepTrainer.training_step

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 4:
            for path in ("progress", "metrics", "healthz"):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as answer:
                    answers[path] = answer.read()
        return original(self, *args, **kwargs)

    monkeypatch.setattr(StepTrainer, "training_step", training_step)
    result = train(ready, url, progress_port=port)
    said = json.loads(answers["progress"])
    assert said["step"] == 4
    assert said["numSteps"] == result["num_steps"]
    assert said["percent"] == pytest.approx(400 / result["num_steps"], abs=0.01)
    assert 4 < said["loss"] < 8
    assert 0 < said["learningRate"] <= 2e-2
    assert said["evalLoss"] > 0
    assert said["tokensPerSecond"] > 0
    assert said["etaSeconds"] > 0
    assert 0 <= said["paddingShare"] < 1
    assert b"\nrefrain_train_step 4\n" in answers["metrics"]
    assert answers["healthz"] == b"ok\n"
    with pytest.raises(OSError, match="refused"):  # gone with the run
        urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10)


def test_metrics_for_tensorboard(
    ready: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    train(ready, url, report_to=("tensorboard",), tells=True)
    folder = tmp_path / "tmp" / "refrain-runs" / CYCLE
    assert f"TensorBoard's files are in {folder}" in capfd.readouterr().err
    assert list((tmp_path / "here").iterdir()) == []
    events = EventAccumulator(str(folder))
    events.Reload()
    logged = [line["loss"] for line in artifact(url, "trainer_state")["log_history"] if "loss" in line]
    assert [one.value for one in events.Scalars("train/loss")] == pytest.approx(logged)
    assert len(events.Scalars("eval/loss")) > 1


@pytest.mark.parametrize("by_white_space", [True, False])
def test_the_note_on_white_space_comes_with_plain_files_too(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_white_space: bool
) -> None:
    from jobs.cli import main
    from jobs.ml.base_model import find_base

    monkeypatch.delenv("REFRAIN_STORE", raising=False)
    tokenizer = "whitespace" if by_white_space else ready / "base"
    for command in (
        f"parse {ready / 'mail.mbox'} -o {tmp_path / 'messages.jsonl'} --workers 1",
        f"split -i {tmp_path / 'messages.jsonl'} -m {tmp_path / 'assignments.json'} --tokenizer {tokenizer}",
    ):
        main(command.split())
    inputs = Inputs({"assignments": [tmp_path / "assignments.json"]})
    notes = _fix_base(find_base(str(ready / "base")), inputs)
    assert [note.partition(":")[0] for note in notes] == ["the archive was split by white space"] * by_white_space
    shutil.rmtree(tmp_path / "assignments.archive")
    assert _fix_base(find_base(str(ready / "base")), inputs) == []
