"""Measures training of an 8B model's adapter on one GPU, side by side with others, into benchmarks/results-gpu.md.

    python benchmarks/training/run.py                    everything: about half an hour on one H200
    python benchmarks/training/run.py refrain grouped --turns 1
    python benchmarks/training/run.py --shape small      whether the programs run; works on a CPU too

The programs run in turn, each a process of its own. A ratio is the median of the turns' ratios.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE.parents[1] / "tests")]

from measure import Measurement, measure  # noqa: E402
from training.work import CHUNKS, SHAPES, Shape, num_operations, prepare  # noqa: E402

PEAK_OPERATIONS = 989e12
"""Of an H100 or H200 (SXM) in dense bf16, a second, as its data sheet says."""
NAMES = {
    "refrain": "`refrain train`",
    "refrain-free": "the same, not deterministic",
    "refrain-compiled": "the same, layers compiled",
    "random": "Trainer + PEFT, random padded batches",
    "grouped": "Trainer + PEFT, group_by_length",
    "packed": "TRL, packed, loss in chunks",
}
GOALS = {"random": 2.0, "grouped": 1.25, "packed": 1.0}
"""Our rate over theirs."""
SHARE_GOAL = 0.45
"""Of the peak."""

Turns = Mapping[str, list[Measurement]]


def main() -> None:
    """Run the programs that were asked for, and write the table."""
    options = _options()
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    if device is None and options.shape == "8b":
        sys.exit("no GPU here: nothing is measured (--shape small tries the programs on the CPU)")
    programs = options.programs or [name for name in NAMES if name != "packed" or find_spec("trl")]
    turns: dict[str, list[Measurement]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="refrain-bench-") as scratch:
        folder = Path(scratch)
        prepare(folder, options.chunks, SHAPES[options.shape])
        with np.load(folder / CHUNKS) as stored:
            lengths = stored["lengths"]
        for _ in range(options.turns):
            for name in programs:
                command = [sys.executable, str(HERE / "programs.py"), name, options.shape]
                turns[name].append(measure(command, folder))
                print(name, turns[name][-1], flush=True)
    lines = list(_table(turns, lengths, SHAPES[options.shape]))
    text = "\n".join([*_head(device or "a CPU", options.shape, lengths), *lines]) + "\n"
    if options.output:
        options.output.write_text(text)
    print(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "programs", nargs="*", metavar="PROGRAM", help=f"of {', '.join(NAMES)}; all where none is named"
    )
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--chunks", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, help="a Markdown file")
    options = parser.parse_args()
    if unknown := set(options.programs) - set(NAMES):
        parser.error(f"no such program: {', '.join(sorted(unknown))}")
    return options


def _head(device: str, shape: str, lengths: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Iterator[str]:
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "trl") if find_spec(name)
    )
    yield "# How fast it trains on a GPU\n"
    yield f"Written by `make bench-gpu`: {datetime.now(UTC):%Y-%m-%d}, {device}, {versions}.\n"
    yield (
        f"A {shape} Llama with random weights in bf16, LoRA on all matrices, dropout 0.05, no activation "
        f"checkpointing; {len(lengths):,} texts of {int(lengths.sum()):,} tokens, lognormal, at most 2,048, once. "
        "Tokens are those of texts, without padding. The share of the peak counts what must be done: four operations "
        "a weight and token, and causal attention.\n"
    )


def _table(turns: Turns, lengths: np.ndarray[tuple[int], np.dtype[np.int64]], shape: Shape) -> Iterator[str]:
    yield "| | tokens/s | ours is | of 989 TFLOP/s | padding | memory |"
    yield "|---|--:|--:|--:|--:|--:|"
    operations = num_operations(shape, lengths)
    for name, measured in turns.items():
        seconds = median(turn.seconds for turn in measured)
        share = operations / seconds / PEAK_OPERATIONS
        ratio = f"{_ratio(turns, name):.2f}×" if name in GOALS and "refrain" in turns else ""
        memory = median(turn.figures.get("peak_gib", 0) for turn in measured)
        padding = measured[0].figures["padding"]
        yield (
            f"| {NAMES[name]} | {lengths.sum() / seconds:,.0f} | {ratio} | {share:.1%} | {padding:.1%} "
            f"| {memory:.0f} GiB |"
        )
    yield ""
    if "refrain" in turns:
        yield from _verdicts(turns, operations)


def _verdicts(turns: Turns, operations: float) -> Iterator[str]:
    share = operations / median(turn.seconds for turn in turns["refrain"]) / PEAK_OPERATIONS
    yield f"- {_reached(share, SHARE_GOAL)}: {share:.1%} of the peak, goal ≥ {SHARE_GOAL:.0%}"
    for name, least in GOALS.items():
        if name in turns:
            ratio = _ratio(turns, name)
            yield f"- {_reached(ratio, least)}: {ratio:.2f}× {NAMES[name]}, goal ≥ {least:g}×"


def _ratio(turns: Turns, name: str) -> float:
    """Our rate over another's."""
    return median(b.seconds / a.seconds for a, b in zip(turns["refrain"], turns[name], strict=True))


def _reached(value: float, least: float) -> str:
    return "reached" if value >= least else "**not reached**"


if __name__ == "__main__":
    main()
