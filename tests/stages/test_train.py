"""The train stage over an archive: what it refuses, what it writes, and that no kill changes that."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import trainable
from components import require
from trainable import CYCLE, copied, in_a_child, written

from jobs.assignments.archive import Archive
from jobs.contracts.artifacts import BASE_KEY, artifact_key, production_key
from jobs.contracts.errors import ConfigError, InputError, MissingInputError, StoppedError, UsageError
from jobs.contracts.records import short_digest
from jobs.contracts.store import open_store
from jobs.intake.reading import read_data
from jobs.items import LocalItems
from jobs.runner import run_in_store
from jobs.stages import Inputs, Outputs
from jobs.stages.train import _fix_base, _in_use

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def ready(tmp_path_factory: Any) -> Path:
    return trainable.make(tmp_path_factory.mktemp("ready"))


@pytest.fixture
def url(ready: Path, tmp_path: Path) -> str:
    return copied(ready, (tmp_path / "archive").as_uri())


@pytest.fixture(scope="module")
def undisturbed(ready: Path, tmp_path_factory: Any) -> tuple[str, Any]:
    url = copied(ready, (tmp_path_factory.mktemp("undisturbed") / "archive").as_uri())
    return url, train(ready, url)


def train(ready: Path, url: str, **settings: Any) -> Any:
    attempt = settings.pop("attempt", 0)
    return run_in_store("train", trainable.settings(ready, **settings), url=url, cycle=CYCLE, attempt=attempt)


def artifact(url: str, kind: str, stage: str = "train") -> Any:
    return orjson.loads(open_store(url, read_only=True).get(artifact_key(CYCLE, stage, kind)))


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


def die_at_step(step: int, number: int) -> None:
    """From now on a signal comes at a step: behind its first micro-batch, the last checkpoint being published."""
    from jobs.ml.training.trainer import StepTrainer

    original = StepTrainer._tensors

    def tensors(self: Any, examples: Any) -> Any:
        result = original(self, examples)
        if self.model.training and self.state.global_step == step and self.seen_one:
            if self.checkpoints._pending:
                self.checkpoints._pending.result()
            os.kill(os.getpid(), number)
        self.seen_one = self.model.training and self.state.global_step == step
        return result

    StepTrainer.seen_one = False  # type: ignore[attr-defined]
    StepTrainer._tensors = tensors  # type: ignore[method-assign]


def middle(url: str) -> int:
    """A step of more than two micro-batches, neither the first nor behind one that is saved anyway; from 0."""
    batches = [batch for epoch in artifact(url, "schedule", "sample")["epochs"] for batch in epoch["batches"]]
    saved = artifact(url, "trainer_state")["refrain"]["checkpoints"]
    sizes = {number: len(batch["chunk_ids"]) for number, batch in enumerate(batches)}
    return next(n for n, size in sizes.items() if n and size > 2 and f"step_{n}" not in saved)


def die_at_upload(number: int) -> None:
    """From now on this process dies behind the so manieth object that it writes."""
    from jobs.items import StoreItems

    original, count = StoreItems.publish, [0]

    def publish(self: Any, name: str) -> None:
        store = self._store
        upload = store.upload

        def counted(key: str, path: Path) -> None:
            upload(key, path)
            count[0] += 1
            if count[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)

        store.upload = counted
        original(self, name)

    StoreItems.publish = publish  # type: ignore[method-assign]


class TestKills:
    @pytest.mark.parametrize("number", [1, 6, 13])
    def test_between_two_uploads(self, ready: Path, url: str, undisturbed: Any, number: int) -> None:
        """A checkpoint is six objects, the marker the last of them."""

        def work() -> None:
            die_at_upload(number)
            train(ready, url)

        assert in_a_child(work) == -signal.SIGKILL
        train(ready, url)
        assert written(url) == written(undisturbed[0])

    def test_over_every_store(self, ready: Path, new_store: Any, undisturbed: Any) -> None:
        url = copied(ready, new_store())

        def work() -> None:
            die_at_step(middle(undisturbed[0]), signal.SIGKILL)
            train(ready, url)

        assert in_a_child(work) == -signal.SIGKILL
        assert not any(key.endswith("/train/_SUCCESS.json") for key in written(url))
        train(ready, url)
        assert written(url) == written(undisturbed[0])

    @pytest.mark.parametrize(
        ("number", "code"),
        [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)],
        ids=["TERM", "INT", "HUP"],
    )
    def test_told_to_stop_it_saves_in_the_middle_of_a_step(
        self, ready: Path, url: str, undisturbed: Any, capfd: Any, number: signal.Signals, code: int
    ) -> None:
        """By the command line, whose own handler would have ended it at once."""

        step = middle(undisturbed[0])

        def work() -> None:
            die_at_step(step, number)
            command(ready, url)

        assert in_a_child(work) == code
        told = capfd.readouterr().err
        assert f"told to stop at step {step} of" in told
        assert "the same command again goes on from there" in told
        assert ("Ctrl-C again stops at once" in told) == (number == signal.SIGINT)
        assert any(f"checkpoints/step_{step}/_COMPLETE.json" in key for key in written(url))
        assert in_a_child(lambda: command(ready, url)) == 0
        assert f"goes on from step {step}" in capfd.readouterr().err
        assert written(url) == written(undisturbed[0])

    def test_sigterm_as_the_first_process_of_a_container(
        self, ready: Path, url: str, undisturbed: Any, tmp_path: Path
    ) -> None:
        """The kernel spares it signals that it has no handler for."""
        isolated = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
        possible = subprocess.run([*isolated, "true"], capture_output=True, check=False)
        require(possible.returncode == 0, "no namespaces: unshare --pid is not allowed here")
        step = middle(undisturbed[0])
        script = tmp_path / "first.py"
        script.write_text(
            f"import os, sys\nfrom pathlib import Path\nsys.path[:0] = {[str(Path(__file__).parents[1])]!r}\n"
            f"from stages.test_train import command, die_at_step\nassert os.getpid() == 1\n"
            f"die_at_step({step}, 15)\ncommand(Path({str(ready)!r}), {url!r})\n"
        )
        done = subprocess.run([*isolated, sys.executable, script], capture_output=True, check=False, text=True)
        assert done.returncode == 143, done.stderr
        assert f"told to stop at step {step} of" in done.stderr
        train(ready, url)
        assert written(url) == written(undisturbed[0])


def command(ready: Path, url: str, *more: object) -> None:
    """`refrain train` with the settings of these tests."""
    from jobs.cli import main

    flags: dict[str, object] = {
        "base": ready / "base",
        "store": url,
        "cycle": CYCLE,
        "lr": 2e-2,
        "rank": 4,
        "alpha": 8,
        "dropout": 0.1,
        "save-steps": 3,
        "micro-batch-tokens": 1,
        "device": "cpu",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    main(["train", *words, *map(str, more)])


def test_alpha_is_twice_the_rank_unless_it_is_said() -> None:
    from jobs.stages.train import Config

    assert [Config(base="b", rank=rank).alpha for rank in (1, 16, 128)] == [2, 32, 256]
    assert Config(base="b", rank=4, alpha=32).alpha == 32


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


def test_told_to_stop_while_it_loads_it_stops_at_once(ready: Path, url: str) -> None:
    """Nothing is trained yet, so nothing is saved."""
    from jobs.ml.training import run

    original = run._prepare

    def prepare(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_prepare", prepare)
        with pytest.raises(StoppedError, match="told to stop at step 0"):
            train(ready, url)
    assert not any("checkpoints" in key for key in written(url))
