"""Writing assignments logs for tests; run as a program, a writer that can be killed.

    python logwriting.py URL NUM_WINDOWS [KILL_AT]

imports that many windows into an archive, as `split` does: data file, segment, and so on, then a
checkpoint. What is there already is not written again. With KILL_AT the process kills itself at that
change of the file system, counted from 1 once the archive is open.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from typing import Any

from jobs.assignments import checkpoint
from jobs.assignments.archive import Archive
from jobs.assignments.segment import Draft, Head, SegmentHeader
from jobs.contracts.records import Assignment, Split, chunk_id, short_digest

PARAMETERS = {"seed": 42, "ratios": [0.8, 0.1, 0.1]}
ROWS_A_WINDOW = 5


def thread_id(name: object) -> str:
    """A thread id of our form."""
    return "thread_" + short_digest(f"thread {name}")[:24]


def row(thread: str, k: int, window_idx: int, split: Split = "train", num_messages: int = 2) -> Assignment:
    """A row whose digests follow from its chunk id."""
    name = chunk_id(thread, k)
    return Assignment(
        chunk_id=name,
        thread_id=thread,
        split=split,
        window_idx=window_idx,
        messages=[short_digest(f"message {name} {i}") for i in range(num_messages)],
        contents=[short_digest(f"content {name} {i}") for i in range(num_messages)],
        ghosts=[short_digest(f"ghost {name}")] if k == 0 else [],
        text_sha256=short_digest(name) * 2,
    )


def window_rows(window_idx: int) -> list[Assignment]:
    """The rows of a window: a new thread, and one more chunk of each of the threads before, up to five rows."""
    first = max(0, window_idx - ROWS_A_WINDOW + 1)
    return [row(thread_id(number), window_idx - number, window_idx) for number in range(window_idx, first - 1, -1)]


def commit(archive: Archive, rows: Iterable[Assignment], window_idx: int, **more: Any) -> SegmentHeader:
    """Append one segment."""
    draft = Draft(list(rows), window_idx, **{"parameters": PARAMETERS, "cycle": f"week-{window_idx}"} | more)
    header = archive.log.append(lambda _: draft)
    assert header is not None
    return header


def import_windows(archive: Archive, num_windows: int) -> None:
    """Commit so many windows, those that are not there yet; then the checkpoint that is due."""
    for window_idx in range(num_windows):

        def build(head: Head, window_idx: int = window_idx) -> Draft | None:
            if any(header.window_idx == window_idx for header in archive.headers()):
                return None
            rows = window_rows(window_idx)
            text = b"".join(f"{r.chunk_id}\n".encode() for r in rows)
            file = archive.write_data("chunks", window_idx, "train", text, num_rows=len(rows), suffix=".txt")
            return Draft(
                rows,
                window_idx,
                PARAMETERS,
                cycle=f"week-{window_idx}",
                files={"chunks": [file]},
                cursors={"inbox": window_idx},
            )

        archive.log.append(build)
    archive.write_checkpoint()


def contents(archive: Archive) -> dict[str, bytes]:
    """Everything in an archive."""
    return {key: archive.store.get(key) for key in archive.store.list()}


def _die_at(kill_at: int) -> None:
    count = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        changes = event in ("os.link", "os.rename", "os.remove", "os.mkdir") or (
            event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        if changes:
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if __name__ == "__main__":
    checkpoint.SEGMENTS_BETWEEN = 2
    opened = Archive.open(sys.argv[1])
    if len(sys.argv) > 3:
        _die_at(int(sys.argv[3]))
    import_windows(opened, int(sys.argv[2]))
