"""Small training runs over the chunks of the tests' archive."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.contracts.records import Chunk
from jobs.items import LocalItems
from jobs.ml.adapters import adapter_digest
from jobs.ml.training.data import TrainingData
from jobs.ml.training.run import Outcome, Run, train_adapter
from jobs.ml.training.settings import Adapter, Hyperparameters
from jobs.ml.training.steps import plan_steps

SETTINGS: dict[str, Any] = {
    "learning_rate": 2e-2,
    "learning_rate_schedule": "cosine",
    "warmup_ratio": 0.1,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "save_steps": 3,
    "patience": None,
    "min_delta": 0.0,
    "seed": 7,
    "precision": "fp32",
}
ADAPTER: dict[str, Any] = {
    "rank": 4,
    "alpha": 8.0,
    "dropout": 0.1,
    "target_modules": "all-linear",
    "gradient_checkpointing": False,
    "quantization": None,
}
WEIGHTS = "adapter_model.safetensors"


def schedule(*epochs: Sequence[Sequence[str]]) -> dict[str, Any]:
    """A schedule of these batches of chunk ids, epoch by epoch."""
    batches = ([{"source": "new", "chunk_ids": list(batch)} for batch in epoch] for epoch in epochs)
    return {"epochs": [{"epoch": number, "batches": one} for number, one in enumerate(batches)]}


def cut(chunks: Sequence[Chunk], size: int) -> list[list[str]]:
    """Their ids in batches."""
    ids = [chunk.chunk_id for chunk in chunks]
    return [ids[first : first + size] for first in range(0, len(ids), size)]


def data_of(chunks: Sequence[Chunk], encoder: Any, plan: Any, *, accumulation: int = 1, num_val: int = 4) -> Any:
    """Train chunks by the plan, and some val chunks."""
    steps = plan_steps(plan, accumulation)
    by_id = {chunk.chunk_id: chunk for chunk in chunks}
    wanted = dict.fromkeys(name for step in steps for name in step.chunk_ids)
    examples = {name: encoder.example(by_id[name], stops=True) for name in wanted}
    val = [chunk for chunk in chunks if chunk.split == "val"][:num_val]
    return TrainingData(steps, examples, [encoder.example(chunk) for chunk in val])


def of_train(chunks: Sequence[Chunk], number: int) -> list[Chunk]:
    """So many train chunks, short ones: of up to 330 tokens."""
    short = [chunk for chunk in chunks if chunk.split == "train" and chunk.num_tokens <= 330]
    assert len(short) >= number
    return short[:number]


def train(base: Any, data: TrainingData, folder: Path, **settings: Any) -> Outcome:
    """Train into a folder; settings are those of the run, the adapter or the hyperparameters, whichever has them."""
    folder.mkdir(parents=True, exist_ok=True)
    calls = {name: settings.pop(name) for name in ("should_stop", "progress", "say") if name in settings}
    adapter = Adapter(**{name: settings.pop(name, value) for name, value in ADAPTER.items()})
    names = ("start_from", "processes", "report_folder", "device")
    of_run = {"device": "cpu"} | {name: settings.pop(name) for name in names if name in settings}
    hyper = Hyperparameters(**SETTINGS | settings)
    digest = hashlib.sha256(f"{adapter} {hyper} {of_run.get('start_from')} {data.digest()}".encode()).hexdigest()
    run = Run(base, adapter, hyper, data, digest, **of_run)
    with tempfile.TemporaryDirectory() as scratch:
        return train_adapter(run, LocalItems(folder), scratch=Path(scratch), **calls)


def digest(folder: Path) -> str:
    """Of the newest checkpoint's adapter."""
    return adapter_digest(newest(folder))


def newest(folder: Path) -> Path:
    """The newest checkpoint's folder."""
    return folder / LocalItems(folder).names()[-1]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def losses(outcome: Outcome, kind: str = "loss") -> list[float]:
    """Those of the log."""
    return [line[kind] for line in outcome.trainer_state["log_history"] if kind in line]
