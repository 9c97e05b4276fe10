"""The whole data half: from an mbox to the schedule, stage after stage as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

REFRAIN = str(Path(sys.executable).with_name("refrain"))
NEWEST = 25
STAGES = {
    "parse": "parse archive.mbox -o messages.jsonl",
    "split": "split -i messages.jsonl -m assignments.json -o splits "
    "--window-period week --window-size 100 --window-overlap 10",
    "window": f"window --assignments assignments.json --window-idx {NEWEST} --split train -o new_train.json",
    "rehearse": f"rehearse --assignments assignments.json --window-idx {NEWEST} -o old_shards_train.json",
    "sample": "sample old_shards_train.json new_train.json --batch-tokens 16384 -o epoch_schedule.json",
}


def _run() -> None:
    """All stages; how long they took together, and which part of that each took."""
    seconds = {}
    for stage, arguments in STAGES.items():
        begin = time.perf_counter()
        subprocess.run([REFRAIN, *arguments.split()], check=True, capture_output=True)
        seconds[stage] = time.perf_counter() - begin
    total = sum(seconds.values())
    print(json.dumps({"seconds": total} | {stage: taken / total for stage, taken in seconds.items()}))


if __name__ == "__main__":
    _run()
    sys.exit()

import shutil  # noqa: E402

import mailgen  # noqa: E402

from rows import Contestant, MemoryAtMost, Row, SecondsAtMost  # noqa: E402


def prepare(folder: Path, num_mails: int) -> None:
    """Half a year of mail."""
    mailgen.write_mbox(folder / "archive.mbox", num_mails, days=7 * (NEWEST + 1))


def _forget(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "archive.mbox":
            path.unlink()


def _pipeline(folder: Path) -> list[str]:
    del folder
    return [sys.executable, __file__]


ROW = Row(
    title="From mail to schedule",
    unit="mails",
    size=10_000,
    prepare=prepare,
    contestants=(Contestant("all stages, all CPUs", _pipeline, _forget, num_cpus=None, upto=100),),
    goals=(
        SecondsAtMost(60, times=10),
        SecondsAtMost(900, times=100),
        MemoryAtMost(4 * 2**30, times=100),
    ),
    figures=tuple(STAGES),
    turns=3,
    note=(
        f"{', '.join(STAGES)}, over plain files, with the whitespace tokenizer and {NEWEST + 1} weekly windows. "
        "The columns of the stages are their parts of the time."
    ),
)
