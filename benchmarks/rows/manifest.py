"""The rehearsal manifest: chunks grouped by sender, thread and length, and shared out; beside loops in Python."""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

NUM_SAMPLES = 20_000
SEED, WINDOW_IDX = 42, 26


def _refrain() -> None:
    from jobs.replay.rehearsal import Strata, eligible
    from jobs.replay.table import ChunkTable

    table = ChunkTable.from_file(Path("chunks.jsonl"))
    begin = time.process_time()
    old = table.take(eligible(table, WINDOW_IDX, 1))
    strata = Strata.of(old, SEED)
    chosen = strata.choose(window_idx=WINDOW_IDX, seed=SEED, max_samples=NUM_SAMPLES, max_per_stratum=None)
    _tell(begin, len(chosen))


def _loops() -> None:
    """The same rules as a person would write them down: one chunk a stratum, the rest by largest remainders."""
    with Path("chunks.jsonl").open() as lines:
        chunks = [json.loads(line) for line in lines]
    begin = time.process_time()
    strata: dict[tuple[str, str, int], list[tuple[bytes, str]]] = defaultdict(list)
    for chunk in chunks:
        if chunk["split"] == "train" and chunk["window_idx"] < WINDOW_IDX:
            key = hashlib.sha256(f"{SEED}/{WINDOW_IDX}/{chunk['chunk_id']}".encode()).digest()
            strata[chunk["sender"], chunk["thread_id"], chunk["length_bucket"]].append((key, chunk["chunk_id"]))
    names = sorted(strata, key=lambda name: hashlib.sha256(f"{SEED}/{name}".encode()).digest())
    given = dict.fromkeys(names[:NUM_SAMPLES], 1)
    rest = NUM_SAMPLES - len(given)
    total = sum(len(members) for members in strata.values())
    remainders = []
    for name in names if rest > 0 else ():
        whole, remainder = divmod(rest * len(strata[name]), total)
        given[name] += whole
        remainders.append((-remainder, name))
    for _, name in sorted(remainders)[: NUM_SAMPLES - sum(given.values())]:
        given[name] += 1
    chosen = {chunk_id for name, count in given.items() for _, chunk_id in sorted(strata[name])[:count]}
    manifest = [chunk for chunk in chunks if chunk["chunk_id"] in chosen]
    _tell(begin, len(manifest))


def _tell(begin: float, num_chosen: int) -> None:
    print(json.dumps({"seconds": time.process_time() - begin, "chosen": num_chosen}))


PROGRAMS: dict[str, Callable[[], None]] = {"refrain": _refrain, "loops": _loops}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]]()
    sys.exit()

from rows import AtLeast, Contestant, Row  # noqa: E402

NUM_SENDERS = 5000


def prepare(folder: Path, num_chunks: int) -> None:
    """Chunks of threads of two on average, each thread of three senders; few senders write most of them."""
    rng = random.Random(0)
    draw = rng.random
    with (folder / "chunks.jsonl").open("w") as output:
        for _ in range(num_chunks):
            thread = int(num_chunks / 2 * draw())
            sender = int(NUM_SENDERS * (thread * 0.618 % 1) ** 3) + int(3 * draw())
            num_tokens = 20 + int(2000 * draw() * draw() * draw())
            entry = {
                "chunk_id": f"thread_{thread:024x}_window_{rng.getrandbits(30)}",
                "thread_id": f"thread_{thread:024x}",
                "split": "train",
                "window_idx": int(27 * draw()),
                "sender": f"person{sender}@example.org",
                "num_tokens": num_tokens,
                "length_bucket": sum(num_tokens > edge for edge in (256, 512, 1024)),
            }
            output.write(json.dumps(entry) + "\n")


def _program(name: str, folder: Path) -> list[str]:
    del folder
    return [sys.executable, __file__, name]


ROW = Row(
    title="Tables: grouping for the manifest",
    unit="chunks",
    size=100_000,
    prepare=prepare,
    contestants=(
        Contestant("`Strata.choose`", partial(_program, "refrain")),
        Contestant("loops and dicts", partial(_program, "loops")),
    ),
    goals=(AtLeast(8, "loops and dicts"), AtLeast(8, "loops and dicts", times=10)),
    turns=3,
    note=f"By CPU time, of chunks that have been read; {NUM_SAMPLES:,} of them are chosen.",
)
