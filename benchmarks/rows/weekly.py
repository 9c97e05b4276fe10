"""A week's mail into an archive of years, beside the same week into an empty one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial
from itertools import islice
from pathlib import Path

import mailgen

from rows import AtLeast, Contestant, Row, SlowsAtMost

REFRAIN = str(Path(sys.executable).with_name("refrain"))
WEEK_MAILS = 500
EMPTY = "the same week into an empty archive"


def prepare(folder: Path, num_mails: int) -> None:
    """An archive with a window for each week so far, and the week after it, parsed, in a cycle of its own."""
    weeks = num_mails // WEEK_MAILS
    mails = mailgen.mails(num_mails + WEEK_MAILS, days=7 * (weeks + 1), start="2020-01-06")
    for name, count in (("years", num_mails), ("week", WEEK_MAILS)):
        with (folder / f"{name}.mbox").open("wb") as output:
            output.writelines(map(mailgen.mbox_bytes, islice(mails, count)))
    _run(folder, "parse", "--store", "./full", "--cycle", "years", "years.mbox")
    _run(folder, *_split("full", "years"), "--window-period", "week")
    for store in ("full", "empty"):
        _run(folder, "parse", "--store", f"./{store}", "--cycle", "week", "week.mbox")


def _run(folder: Path, *arguments: str) -> None:
    subprocess.run([REFRAIN, *arguments], cwd=folder, check=True, capture_output=True)


def _split(store: str, cycle: str) -> list[str]:
    return ["split", "--store", f"./{store}", "--cycle", cycle, "--window-size", "100", "--window-overlap", "10"]


def _restore(store: str, folder: Path) -> None:
    shutil.rmtree(folder / "archive", ignore_errors=True)
    shutil.copytree(folder / store, folder / "archive", symlinks=True)


def _refrain(folder: Path) -> list[str]:
    del folder
    return [REFRAIN, *_split("archive", "week"), "--workers", "1"]


ROW = Row(
    title="A week into an archive of years",
    unit="mails",
    size=10_000,
    size_unit="mails lie there",
    work=WEEK_MAILS,
    prepare=prepare,
    contestants=(
        Contestant(f"`refrain split` of {WEEK_MAILS} mails", _refrain, partial(_restore, "full")),
        Contestant(EMPTY, _refrain, partial(_restore, "empty")),
    ),
    goals=(SlowsAtMost(1.5), AtLeast(0.5, EMPTY, times=10)),
    note="A folder as the store; the whole command, with its start. The archive has a window for each 500 mails.",
)
