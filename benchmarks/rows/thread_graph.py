"""Threading alone: messages and what they refer to, as numbers, into threads; beside union-find in plain Python."""

from __future__ import annotations

import json
import random
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

ACTIVE_THREADS = 2048
"""Threads that are answered, the newest."""


def _refrain() -> int:
    import numpy as np

    from jobs.mail.threading import ThreadGraph

    messages, offsets, refs = (np.load(f"{name}.npy") for name in ("messages", "offsets", "refs"))
    node_thread = np.full(int(max(messages.max(), refs.max())) + 1, -1, dtype=np.int32)
    begin = time.process_time()
    graph = ThreadGraph(node_thread, 0, rank=lambda thread: thread)
    graph.assign(messages, offsets, refs)
    _tell(time.process_time() - begin)
    return graph.next_thread


def _union_find() -> int:
    import numpy as np

    messages, offsets, refs = (np.load(f"{name}.npy").tolist() for name in ("messages", "offsets", "refs"))
    begin = time.process_time()
    parent = list(range(max(*messages, *refs) + 1))

    def find(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for number, message in enumerate(messages):
        for ref in refs[offsets[number] : offsets[number + 1]]:
            parent[find(message)] = find(ref)
    threads: dict[int, int] = {}
    thread_of = [threads.setdefault(find(message), len(threads)) for message in messages]
    _tell(time.process_time() - begin)
    return max(thread_of) + 1


def _tell(seconds: float) -> None:
    print(json.dumps({"seconds": seconds}))


PROGRAMS: dict[str, Callable[[], int]] = {"refrain": _refrain, "union_find": _union_find}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]]()
    sys.exit()

import numpy as np  # noqa: E402

from rows import AtLeast, Contestant, RateAtLeast, Row  # noqa: E402


def prepare(folder: Path, num_messages: int) -> None:
    """Messages in the order of their dates: three in ten begin a thread, one answer in a hundred is to a ghost."""
    draw = random.Random(0).random
    threads: deque[deque[tuple[int, list[int]]]] = deque(maxlen=ACTIVE_THREADS)
    offsets, refs = array("q", [0]), array("i")
    for message in range(num_messages):
        named: list[int] = []
        if threads and draw() > 0.3:
            thread = threads[int(len(threads) * max(draw(), draw()))]
            parent, before = thread[int(len(thread) * max(draw(), draw()))]
            named = [*before[:1], *before[1:][-9:], num_messages + message if draw() < 0.01 else parent]
        else:
            thread = deque(maxlen=8)
            threads.append(thread)
        thread.append((message, named))
        refs.extend(named)
        offsets.append(len(refs))
    np.save(folder / "messages.npy", np.arange(num_messages, dtype=np.int32))
    np.save(folder / "offsets.npy", np.array(offsets))
    np.save(folder / "refs.npy", np.array(refs))


def _program(name: str, folder: Path) -> list[str]:
    del folder
    return [sys.executable, __file__, name]


ROW = Row(
    title="Threading: the graph itself",
    unit="messages",
    size=100_000,
    prepare=prepare,
    contestants=(
        Contestant("`ThreadGraph.assign`", partial(_program, "refrain")),
        Contestant("union-find in a Python list", partial(_program, "union_find")),
    ),
    goals=(RateAtLeast(1_000_000, "messages", times=10), AtLeast(1, "union-find in a Python list", times=10)),
    note=(
        "By CPU time, with Message-IDs as numbers and nothing read or written; some 1.2 references a message. "
        "Union-find says which messages belong together; `assign` also keeps the threads that there are, finds each "
        "thread's root, and knows whose mail joined two."
    ),
)
