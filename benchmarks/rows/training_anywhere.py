"""What training costs beside its steps: starting, going on from any depth, data, saves, and evaluation's memory."""

from __future__ import annotations

import gc
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE.parents[1] / "tests")]

from training.work import Shape, make_base  # noqa: E402

SHAPE = Shape(256, 896, 4, 8, 4, 4096, batch_tokens=1024, their_batch=4, rank=2)
CHUNKS, TOKENS = 4, 256
"""Of a step that is measured."""
SHORT_TOKENS = 16
"""Of the one chunk of a step that lies behind: there are many."""
STEPS, SAVE_STEPS = 21, 10
STARTS = 5
"""Of each program; their median counts."""
NUM_VAL, EVAL_TOKENS = 8, 2048
DEPTH = "depth.txt"
WAITING, STALL = "waiting for data, of a step", "a save stalls, of the steps between two"
WRITING = "its writing beside them"
MEMORY = "memory of evaluating 10× the val set, of that for 1×"


class _EnoughError(Exception):
    """A run is not wanted any further."""


class _Clock:
    """Notes when each step of the optimiser ends, by CPU time and by the wall's, and ends the run behind the last."""

    def __init__(self, num_steps: int) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.spent: Counter[str] = Counter()
        self.first_cpu = 0.0
        self.begin, self.end = 0.0, 0.0
        self._num_steps, self._left = num_steps, num_steps
        self._hook = register_optimizer_step_post_hook(self._note)

    def _note(self, *_: Any) -> None:
        if self._left == self._num_steps:
            self.first_cpu, self.begin = time.process_time(), time.perf_counter()
            self.spent.clear()
        self.end = time.perf_counter()
        self._left -= 1
        if not self._left:
            self._hook.remove()
            raise _EnoughError

    def watch(self, owner: type, name: str, clock: Callable[[], float] = time.perf_counter) -> None:
        """Add up what a method takes."""
        method = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            begin = clock()
            try:
                return method(*arguments, **named)
            finally:
                self.spent[name] += clock() - begin

        setattr(owner, name, timed)


def _start(depth: int, folder: Path, clock: _Clock) -> float:
    """Train by the plan, or go on in the folder, until the clock ends it; CPU time to the end of the first step."""
    from jobs.items import LocalItems
    from jobs.ml.base_model import Base
    from jobs.ml.training.run import Run, train_adapter

    run = Run(Base("benchmark", None, Path("base"), "", ""), _adapter(), _settings(), _data(depth), device="cpu")
    folder.mkdir(exist_ok=True)
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as scratch, suppress(_EnoughError):
        train_adapter(run, LocalItems(folder), scratch=Path(scratch))
    return clock.first_cpu - begin


def _adapter() -> Any:
    from jobs.ml.training.settings import Adapter

    return Adapter(SHAPE.rank, 2 * SHAPE.rank, 0.05, "all-linear")


def _settings() -> Any:
    from jobs.ml.training.settings import Hyperparameters

    return Hyperparameters(
        learning_rate=2e-4,
        learning_rate_schedule="cosine",
        warmup_ratio=0.03,
        weight_decay=0.0,
        max_grad_norm=1.0,
        save_steps=SAVE_STEPS,
        patience=None,
        min_delta=0.0,
        seed=42,
        precision="fp32",
        eval_tokens=EVAL_TOKENS,
    )


def _data(depth: int, num_val: int = 0) -> Any:
    """A whole step, short ones up to the depth, and whole ones again: a start anywhere has the same work before it."""
    from jobs.ml.training.data import TrainingData
    from jobs.ml.training.steps import Step

    whole = [_example(f"whole {number}", TOKENS) for number in range(8 * CHUNKS)]
    short = [_example(f"short {number}", SHORT_TOKENS) for number in range(100)]
    names = cycle(one.chunk_id for one in whole)
    batches = [_batch(names), *((one.chunk_id,) for one in islice(cycle(short), depth - 1))]
    batches += [_batch(names) for _ in range(STEPS + 1)]
    steps = [Step(0, (batch,), number == len(batches)) for number, batch in enumerate(batches, 1)]
    val = [_example(f"val {number}", TOKENS) for number in range(num_val)]
    return TrainingData(steps, {one.chunk_id: one for one in [*whole, *short]}, val)


def _batch(names: Iterator[str]) -> tuple[str, ...]:
    return tuple(islice(names, CHUNKS))


def _example(name: str, length: int) -> Any:
    import numpy as np

    from jobs.ml.encoding import NO_MESSAGE, Example

    ids = np.random.default_rng(list(name.encode())).integers(2, SHAPE.vocabulary, length, np.int32)
    return Example(name, ids, ids.copy(), np.full(length, NO_MESSAGE, np.int16))


def _warm() -> None:
    """Imports, and what libraries do at their first call, are nobody's time."""
    shutil.rmtree("warm", ignore_errors=True)
    _start(1, Path("warm"), _Clock(2))


def _resumed() -> None:
    """Evaluate, then go on from where the folder is: how long to the first step, and what the next ones wait for."""
    from jobs.ml.training.checkpoints import Checkpoints
    from jobs.ml.training.trainer import StepTrainer

    _warm()
    seconds = _median_start()
    once, tenfold = _evaluated_bytes(NUM_VAL), _evaluated_bytes(10 * NUM_VAL)
    clock = _Clock(STEPS)
    for name in ("get_batch_samples", "_tensors", "save"):
        clock.watch(StepTrainer, name)
    clock.watch(Checkpoints, "_write", time.thread_time)
    _start(_depth(), Path("run"), clock)
    spent, total = clock.spent, clock.end - clock.begin
    shares = {
        WAITING: (spent["get_batch_samples"] + spent["_tensors"]) / total,
        STALL: spent["save"] / total,
        WRITING: spent["_write"] / total,
    }
    print(json.dumps({"seconds": seconds, **shares, MEMORY: tenfold / once}))


def _cold() -> None:
    _warm()
    print(json.dumps({"seconds": _median_start()}))


def _median_start() -> float:
    """Each is given up behind its first step, before anything is written."""
    return median(_start(_depth(), Path("run"), _Clock(1)) for _ in range(STARTS))


def _walk() -> None:
    """Train up to the depth, and be killed behind the next step."""
    _start(_depth(), Path("walked"), _Clock(_depth() + 1))


def _depth() -> int:
    return int(Path(DEPTH).read_text())


def _evaluated_bytes(num_val: int) -> int:
    """The most memory that the process holds while it evaluates so many texts."""
    import torch

    from jobs.ml.base_model import Base
    from jobs.ml.training.checkpoints import TrainingState
    from jobs.ml.training.loss_model import LossModel
    from jobs.ml.training.start import Wanted, fresh_start
    from jobs.ml.training.trainer import StepTrainer
    from jobs.ml.training.world import joined

    gc.collect()  # of the model before
    device, data, settings = torch.device("cpu"), _data(1, num_val), _settings()
    base = Base("benchmark", None, Path("base"), "", "")
    with joined("cpu", 1) as world, tempfile.TemporaryDirectory() as scratch:
        trainer = StepTrainer(
            LossModel(fresh_start(Wanted(base, _adapter(), settings, device, data.longest)).peft_model),
            data,
            settings=settings,
            state=TrainingState(""),
            world=world,
            device=device,
            scratch=Path(scratch),
        )
        trainer.evaluate()
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
        trainer.evaluate()
    told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(told["VmHWM"].split()[0]) * 1024


PROGRAMS: dict[str, Callable[[], None]] = {"resumed": _resumed, "cold": _cold, "walk": _walk}

if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    PROGRAMS[sys.argv[1]]()
    sys.exit()

import subprocess  # noqa: E402

from rows import Contestant, Row, ShareAtMost, TimeAtMost  # noqa: E402


def prepare(folder: Path, depth: int) -> None:
    """A base model, and a run that was killed so many steps in."""
    make_base(folder / "base", SHAPE)
    (folder / DEPTH).write_text(str(depth))
    subprocess.run(_program("walk", folder), cwd=folder, check=True, capture_output=True)


def _program(name: str, folder: Path) -> list[str]:
    del folder
    return [sys.executable, __file__, name]


def _forget(folder: Path) -> None:
    shutil.rmtree(folder / "run", ignore_errors=True)


def _restore(folder: Path) -> None:
    _forget(folder)
    shutil.copytree(folder / "walked", folder / "run")


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))


COLD = "a cold start"

ROW = Row(
    title="Training anywhere: what steps wait for",
    unit="starts",
    size=100,
    size_unit="steps lie behind",
    work=1,
    prepare=prepare,
    contestants=(
        Contestant("going on from there", partial(_program, "resumed"), _restore),
        Contestant(COLD, partial(_program, "cold"), _forget),
    ),
    goals=(
        TimeAtMost(1.05, COLD),
        TimeAtMost(1.05, COLD, times=10),
        ShareAtMost(0.01, WAITING),
        ShareAtMost(0.02, STALL),
        ShareAtMost(1.1, MEMORY),
    ),
    figures=(WAITING, STALL, WRITING, MEMORY),
    versions=_versions,
    turns=3,
    note=(
        "A start is by CPU time from the call to the end of its first step, once everything has been imported and "
        f"used, and the median of {STARTS}: base, adapter, Trainer, and the same step of {CHUNKS} texts of {TOKENS} "
        "tokens. Of the schedule as many steps lie before it as the table says, with a checkpoint behind every tenth. "
        f"Then it goes on for {STEPS - 1} such steps with a checkpoint behind every {SAVE_STEPS}th, by the clock on "
        "the wall; writing them goes on in a thread beside the steps and is counted by its CPU time. Memory is the "
        f"most that a process holds while it evaluates {NUM_VAL} texts and {10 * NUM_VAL}, {EVAL_TOKENS:,} tokens at "
        "once; the logits of the latter would take "
        f"{10 * NUM_VAL * TOKENS * SHAPE.vocabulary * 4 / 2**20:,.0f} MiB more. A Llama of width {SHAPE.width} and "
        f"{SHAPE.layers} layers in fp32 on one CPU, adapters of rank {SHAPE.rank} on all linear layers: about as much "
        "beside so small a model as rank 16 is beside one of 8B. (With rank 16 a checkpoint is a fifth of this base; "
        "reading, checking and loading its 4 MB took 0.03 s, and going on 1.06× a cold start, 1.07× from ten times the "
        "depth.)"
    ),
)
