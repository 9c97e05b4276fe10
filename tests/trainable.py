"""An archive that is ready to be trained on, and its tiny base model; runs of `train`, also ones that die."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mailgen
import orjson

from jobs.contracts.artifacts import artifact_key
from jobs.contracts.store import open_store
from jobs.runner import run_in_store
from jobs.stages import parse, rehearse, sample, split, window
from jobs.stages.train import Config

CYCLE = "week-5"
SETTINGS: dict[str, Any] = {
    "learning_rate": 2e-2,
    "rank": 4,
    "alpha": 8.0,
    "dropout": 0.1,
    "save_steps": 3,
    "micro_batch_tokens": 1,
    "device": "cpu",
    "tells": False,
}


def make(folder: Path) -> Path:
    """A base model in base/, an archive in archive/ whose cycle has come to `train`, and its mail."""
    from ml.tiny import tiny_base

    mail = folder / "mail.mbox"
    mailgen.write_mbox(mail, 110, seed=3, days=30)
    tiny_base(folder / "base", [mail.read_text(encoding="utf-8", errors="replace")])
    url = (folder / "archive").as_uri()
    tokenizer = str(folder / "base")
    bring(url, "parse", parse.Config((str(mail),), workers=1))
    bring(url, "split", split.Config(window_period="week", tokenizer=tokenizer, workers=1, max_tokens=256))
    bring(url, "window", window.Config())
    bring(url, "rehearse", rehearse.Config())
    bring(url, "sample", sample.Config(epochs=2, batch_size=4, tells=False))
    return folder


def bring(url: str, stage: str, config: Any) -> Any:
    """One stage of the cycle."""
    return run_in_store(stage, config, url=url, cycle=CYCLE)


def copied(ready: Path, url: str) -> str:
    """The archive once more, in another store; its URL."""
    source, target = open_store((ready / "archive").as_uri(), read_only=True), open_store(url)
    for key in list(source.list()):
        target.put(key, source.get(key))
    return url


def settings(ready: Path, **others: Any) -> Any:
    """The stage's settings."""
    return Config(**{"base": str(ready / "base")} | SETTINGS | others)


def train(ready: Path, url: str, **others: Any) -> Any:
    """Run `train`, with the settings of these tests but for others; its result."""
    attempt = others.pop("attempt", 0)
    return run_in_store("train", settings(ready, **others), url=url, cycle=CYCLE, attempt=attempt)


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


def artifact(url: str, kind: str, stage: str = "train") -> Any:
    """An artifact in JSON that a stage has written."""
    return orjson.loads(open_store(url, read_only=True).get(artifact_key(CYCLE, stage, kind)))


def written(url: str) -> dict[str, bytes]:
    """All that `train` has written, its marker included."""
    store = open_store(url, read_only=True)
    return {key: store.get(key) for key in store.list(f"cycles/{CYCLE}/train/")}


def in_a_child(work: Callable[[], Any]) -> int:
    """Do it in a forked process; its exit code, negative where a signal has killed it."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


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


def export(ready: Path, folder: Path) -> Path:
    """The plain files of the archive: assignments.json, chunks.json, splits/ and their kin."""
    from jobs.assignments.archive import Archive
    from jobs.intake.exports import export_all, export_split

    folder.mkdir()
    archive = Archive.open((ready / "archive").as_uri(), read_only=True)
    export_all(archive, folder / "assignments.json")
    for one in ("train", "val", "test"):
        export_split(archive, one, folder / "splits" / f"{one}.json")
    for stage, name in (("sample", "epoch_schedule.json"), ("window", "new_train.json"), ("window", "val.json")):
        shutil.copyfile(ready / f"archive/cycles/{CYCLE}/{stage}/{name}", folder / name)
    shutil.copyfile(ready / f"archive/cycles/{CYCLE}/rehearse/old_shards_train.json", folder / "old_shards_train.json")
    return folder
