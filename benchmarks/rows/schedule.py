"""The schedule: batches of equally long chunks, new ones and rehearsed ones; beside random batches of 16."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

BATCH_TOKENS = 16_384
EPOCHS = 3


def _refrain(**batches: int) -> None:
    from jobs.stages import Inputs, Outputs
    from jobs.stages.sample import Config, run

    inputs = Inputs({"new_train": [Path("new_train.json")], "manifest": [Path("old_shards_train.json")]})
    outputs = Outputs({"schedule": Path("epoch_schedule.json"), "report": Path("report.txt")})
    result = run(Config(epochs=EPOCHS, **batches), inputs, outputs)
    _tell(result["padding"])


def _random_batches() -> None:
    """The same chunks in random batches of 16, as a data loader that shuffles makes them."""
    with Path("new_train.json").open() as new, Path("old_shards_train.json").open() as old:
        chunks = [*json.load(new), *json.load(old)]
    rng = random.Random(42)
    padded = num_tokens = 0
    epochs = []
    for _ in range(EPOCHS):
        rng.shuffle(chunks)
        batches = [chunks[start : start + 16] for start in range(0, len(chunks), 16)]
        padded += sum(len(batch) * max(chunk["num_tokens"] for chunk in batch) for batch in batches)
        num_tokens += sum(chunk["num_tokens"] for chunk in chunks)
        epochs.append([[chunk["chunk_id"] for chunk in batch] for batch in batches])
    with Path("random.json").open("w") as output:
        json.dump(epochs, output)
    _tell(1 - num_tokens / padded)


def _tell(padding: float) -> None:
    print(json.dumps({"seconds": time.process_time(), "padding": padding}))


PROGRAMS: dict[str, Callable[[], None]] = {
    "tokens": partial(_refrain, batch_tokens=BATCH_TOKENS),
    "count": partial(_refrain, batch_size=16),
    "random": _random_batches,
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]]()
    sys.exit()

from rows import Contestant, MemoryAtMost, Row, SecondsAtMost, ShareAtMost  # noqa: E402

NUM_SENDERS = 5000
OLD_SHARE = 0.2


def prepare(folder: Path, num_chunks: int) -> None:
    """New chunks, and a manifest of a fifth of all; half of them under 180 tokens, few over 1,000."""
    rng = random.Random(0)
    num_old = round(OLD_SHARE * num_chunks)
    _write(folder / "old_shards_train.json", rng, range(num_old), 25)
    _write(folder / "new_train.json", rng, range(num_old, num_chunks), 26)


def _write(path: Path, rng: random.Random, numbers: range, newest: int) -> None:
    draw = rng.random
    with path.open("w", buffering=1 << 20) as output:
        output.write("[")
        for number in numbers:
            thread = int(number / 2)
            sender = int(NUM_SENDERS * (thread * 0.618 % 1) ** 3) + int(3 * draw())
            num_tokens = min(2048, max(12, int(rng.lognormvariate(5.2, 0.9))))
            length_bucket = sum(num_tokens > edge for edge in (256, 512, 1024))
            window_idx = newest if newest == 26 else int(26 * draw())
            output.write(
                f'{"," if number > numbers[0] else ""}\n{{"chunk_id":"thread_{thread:024x}_window_{number}",'
                f'"thread_id":"thread_{thread:024x}","split":"train","window_idx":{window_idx},'
                f'"sender":"person{sender}@example.org","num_tokens":{num_tokens},"length_bucket":{length_bucket}}}'
            )
        output.write("\n]\n")


def _program(name: str, folder: Path) -> list[str]:
    del folder
    return [sys.executable, __file__, name]


ROW = Row(
    title="The schedule",
    unit="chunks",
    size=100_000,
    prepare=prepare,
    contestants=(
        Contestant(f"`refrain sample --batch-tokens {BATCH_TOKENS}`", partial(_program, "tokens"), upto=100),
        Contestant("`refrain sample --batch-size 16`", partial(_program, "count")),
        Contestant("random batches of 16", partial(_program, "random")),
    ),
    goals=(
        ShareAtMost(0.02, "padding"),
        ShareAtMost(0.02, "padding", times=10),
        SecondsAtMost(600, times=100),
        MemoryAtMost(4 * 2**30, times=100),
    ),
    figures=("padding",),
    turns=3,
    note=(
        "By CPU time, from reading the two lists to the schedule of three epochs on disk. Four chunks in five are new, "
        "and a fifth is rehearsed. The random batches are drawn in memory, from all of them, without strata."
    ),
)
