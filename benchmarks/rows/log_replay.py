"""The assignments log read back: its segments as columns; beside `json` and a dict."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import orjson

NUM_SEGMENTS = 112
"""A checkpoint ends with the 96th, so that a reader reads 16 besides it: halfway between two of them."""
ACTIVE_THREADS = 2048


def _columns(*, digests: bool = False, checkpoints: bool = False) -> None:
    from jobs.assignments.archive import Archive

    if checkpoints:
        Path("checkpoints").rename("archive/checkpoints")
    begin = time.process_time()
    table = Archive.open("archive", read_only=True).table(digests=digests)
    _tell(begin, len(table))
    if checkpoints:
        Path("archive/checkpoints").rename("checkpoints")


def _dict(loads: Callable[[bytes], dict[str, object]]) -> None:
    begin = time.process_time()
    rows = {}
    for path in sorted(Path("archive/assignments").iterdir()):
        with path.open("rb") as stream:
            next(stream)
            for line in stream:
                row = loads(line)
                rows[row["chunk_id"]] = {name: row[name] for name in ("split", "thread_id", "window_idx")}
    _tell(begin, len(rows))


def _tell(begin: float, num_rows: int) -> None:
    print(json.dumps({"seconds": time.process_time() - begin, "rows": num_rows}))


PROGRAMS: dict[str, Callable[[], None]] = {
    "reader": partial(_columns, checkpoints=True),
    "splitter": partial(_columns, checkpoints=True, digests=True),
    "segments": _columns,
    "json": partial(_dict, json.loads),
    "orjson": partial(_dict, orjson.loads),
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]]()
    sys.exit()

from jobs.assignments import checkpoint  # noqa: E402
from jobs.assignments.archive import Archive  # noqa: E402
from jobs.assignments.segment import Draft  # noqa: E402
from jobs.contracts.records import SPLITS, Assignment, chunk_id  # noqa: E402
from rows import AtLeast, Contestant, MemoryAtMost, Row  # noqa: E402


def prepare(folder: Path, num_rows: int) -> None:
    """A log of that many rows, and the checkpoint that is due, not in its place."""
    archive = Archive.open(str(folder / "archive"))
    rows = _rows(num_rows)
    while part := list(islice(rows, -(-num_rows // NUM_SEGMENTS))):
        draft = Draft(part, part[0].window_idx, {"seed": 42}, cycle="benchmark")
        archive.log.append(lambda _, draft=draft: draft)
    checkpoint.write_if_due(archive.store, archive.log)
    (folder / "archive" / "checkpoints").rename(folder / "checkpoints")


def _rows(num_rows: int) -> Iterator[Assignment]:
    """Two messages a chunk on average, three chunks in five a thread's first."""
    rng = random.Random(0)
    draw, take = rng.random, rng.randbytes
    threads: list[list[object]] = []
    for number in range(num_rows):
        if draw() < 0.6 or not threads:
            thread = [f"thread_{take(12).hex()}", 0, SPLITS[min(2, int(draw() * 10) // 4)]]
            threads[len(threads) % ACTIVE_THREADS : len(threads) % ACTIVE_THREADS + 1] = [thread]
        else:
            thread = threads[int(len(threads) * draw())]
            thread[1] += 1
        name, k, split = thread
        num_messages = 1 + int(3 * draw())
        yield Assignment(
            chunk_id=chunk_id(name, k),
            thread_id=name,
            split=split,
            window_idx=number // -(-num_rows // NUM_SEGMENTS),
            messages=[take(16).hex() for _ in range(num_messages)],
            contents=[take(16).hex() for _ in range(num_messages)],
            ghosts=[take(16).hex()] if draw() < 0.05 else [],
            text_sha256=take(32).hex(),
        )


def _program(name: str, folder: Path) -> list[str]:
    del folder
    return [sys.executable, __file__, name]


ROW = Row(
    title="The log: replaying it",
    unit="rows",
    size=100_000,
    prepare=prepare,
    contestants=(
        Contestant("as `rehearse` reads it", partial(_program, "reader"), upto=100),
        Contestant("as `split` reads it", partial(_program, "splitter"), upto=100),
        Contestant("from segments alone", partial(_program, "segments"), upto=100),
        Contestant("`json` and a dict", partial(_program, "json")),
        Contestant("`orjson` and a dict", partial(_program, "orjson")),
    ),
    goals=(
        AtLeast(5, "`json` and a dict"),
        AtLeast(5, "`json` and a dict", times=10),
        MemoryAtMost(0.5 * 2**30, times=100),
    ),
    turns=3,
    note=(
        "By CPU time. A reader starts from the newest checkpoint and reads the segments after it, here 16 of 112; "
        "`split` also needs the digests of every message. Whatever is read is checked against its digest and the "
        "chain. The dict is what assignments.json holds, read from the segments' rows and not checked. Memory is that "
        "of the whole process."
    ),
)
