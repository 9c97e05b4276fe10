"""Training an adapter: our steps beside Trainer with PEFT, and TRL, on the CPU and a small model."""

from __future__ import annotations

import sys
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from rows import AtLeast, Contestant, GrowsAtMost, Row
from training.work import SHAPES
from training.work import prepare as prepare_work

SHAPE = "small"
PROGRAMS = Path(__file__).resolve().parents[1] / "training" / "programs.py"
RANDOM, GROUPED, PACKED = "Trainer + PEFT, random batches", "Trainer + PEFT, group_by_length", "TRL, packed"


def _prepare(folder: Path, num_chunks: int) -> None:
    prepare_work(folder, num_chunks, SHAPES[SHAPE])


def _program(name: str, folder: Path) -> list[str]:
    del folder
    return [sys.executable, str(PROGRAMS), name, SHAPE]


def _versions() -> str:
    names = ["torch", "transformers", "peft", *(["trl"] if find_spec("trl") else [])]
    return ", ".join(f"{name} {version(name)}" for name in names)


def _contestant(name: str, program: str, upto: int = 1) -> Contestant:
    return Contestant(name, partial(_program, program), upto=upto)


ROW = Row(
    title="Training an adapter",
    unit="chunks",
    size=200,
    prepare=_prepare,
    contestants=(
        _contestant("`refrain train`", "refrain", upto=10),
        _contestant(RANDOM, "random"),
        _contestant(GROUPED, "grouped"),
        *([_contestant(PACKED, "packed")] if find_spec("trl") else []),
    ),
    goals=(
        AtLeast(2, RANDOM),
        AtLeast(1.25, GROUPED),
        *([AtLeast(1, PACKED)] if find_spec("trl") else []),
        GrowsAtMost(1.1),
    ),
    figures=("padding",),
    turns=2,
    versions=_versions,
    note=(
        "By CPU time, in fp32 on one core, a Llama of width 192 and four layers, one epoch; the goals were set for a "
        "GPU and an 8B model, where `make bench-gpu` measures them. Ours is deterministic. TRL is measured where it "
        "is installed (`pip install trl`); it packs texts into rows that do not keep them apart. "
        "What is won over Trainer here is mostly padding, and that shrinks with the number of texts: of batches of 16, "
        "group_by_length pads half of 200 such texts, a quarter of 1,000 and 7% of 20,000."
    ),
)
