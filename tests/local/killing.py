"""Running a cycle in a process of its own that dies at a write of its choice."""

from __future__ import annotations

import functools
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import children

from jobs.contracts.artifacts import SPEED_KEY
from jobs.contracts.cycle import RetrainCycle
from jobs.contracts.folder_store import FolderStore
from jobs.contracts.store import open_store
from jobs.local.configs import Machine
from jobs.local.session import Session

WRITES = ("put", "put_if_absent", "upload", "delete")
PASSED_OVER = ("probe/", SPEED_KEY)
"""Keys whose writes are not counted: the start-up probe's come in no fixed order, and a clock decides the others'."""

Deadly = Callable[[int, str, str, Any], bool]
"""Of a write: its number from 1, the method, the key and its argument; whether the process dies behind it."""


def contents(url: str) -> dict[str, bytes]:
    """All that an archive holds, but what a clock has written."""
    store = open_store(url, read_only=True)
    return {key: store.get(key) for key in store.list() if not key.startswith(PASSED_OVER)}


def die_behind(number: int) -> Deadly:
    """Die behind the so manieth write. To die before one is to die behind the one before it."""
    return functools.partial(_is_number, number)


def _is_number(number: int, count: int, _method: str, _key: str, _data: Any) -> bool:
    return count == number


def run_cycle(cycle: RetrainCycle, url: str, deadly: Deadly | None = None, **settings: Any) -> int:
    """Run a cycle over a folder in a process of its own; its exit code, -9 where it has died."""
    return children.run(_run, cycle, url, deadly, settings)


def _run(cycle: RetrainCycle, url: str, deadly: Deadly | None, settings: dict[str, Any]) -> None:
    if deadly is not None:
        die_at_writes(deadly)
    tempfile.tempdir = str(cycle.spec.store.url)  # what is killed leaves its scratch behind
    Path(tempfile.tempdir).mkdir(parents=True, exist_ok=True)
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for the life of this process
    Session(cycle, url, lambda _line: None, Machine(workers=1, device="cpu")).run(**settings)


def die_at_writes(deadly: Deadly) -> None:
    """From now on this process kills itself behind the write that is deadly."""
    count = 0

    def watched(method: str) -> Callable[..., Any]:
        write = getattr(FolderStore, method)

        def call(self: FolderStore, key: str, *arguments: Any) -> Any:
            nonlocal count
            result = write(self, key, *arguments)
            if not key.startswith(PASSED_OVER):
                count += 1
                if deadly(count, method, key, arguments[0] if arguments else None):
                    os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for method in WRITES:
        setattr(FolderStore, method, watched(method))


def num_writes(cycle: RetrainCycle, url: str, **settings: Any) -> list[str]:
    """The writes of an undisturbed run, `method key` each."""
    with tempfile.NamedTemporaryFile("r") as noted:
        assert children.run(_run, cycle, url, functools.partial(_note, noted.name), settings) == 0
        return noted.read().splitlines()


def _note(path: str, _number: int, method: str, key: str, _data: Any) -> bool:
    with Path(path).open("a") as noted:
        noted.write(f"{method} {key}\n")
    return False
