"""One program run once: how long it took and how much memory it and its children held; and several such runs."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

_SAMPLE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one run cost."""

    seconds: float
    """Wall clock of the whole process, or what it says on its last line: `{"seconds": 1.5}`."""
    peak_bytes: int
    """Most memory of the process and its children together, shared pages counted once."""
    figures: dict[str, float] = field(default_factory=dict)
    """Whatever else its last line tells: `{"seconds": 1.5, "padding": 0.01}`."""


@dataclass(slots=True)
class Outcome:
    """What one contestant did with one size of the work, turn by turn."""

    rates: list[float] = field(default_factory=list)
    """Units a second."""
    turns: list[Measurement] = field(default_factory=list)

    def add(self, num_units: int, measured: Measurement) -> None:
        """One more turn."""
        self.rates.append(num_units / measured.seconds)
        self.turns.append(measured)

    @property
    def rate(self) -> float:
        """Units a second: the median."""
        return median(self.rates)

    @property
    def seconds(self) -> float:
        """The median."""
        return median(turn.seconds for turn in self.turns)

    @property
    def peak_bytes(self) -> float:
        """The median."""
        return median(turn.peak_bytes for turn in self.turns)

    def tells(self, name: str) -> bool:
        """Whether the program told that of itself."""
        return all(name in turn.figures for turn in self.turns)

    def figure(self, name: str) -> float:
        """The median of what the program told of itself."""
        return median(turn.figures[name] for turn in self.turns)


def measure(command: list[str], cwd: Path, num_cpus: int | None = None) -> Measurement:
    """Run a command on that many CPUs (all, where None). RuntimeError, with what it printed, where it fails."""
    with _on_cpus(num_cpus):
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    peak = _Peak(process.pid)
    printed = process.communicate()[0]
    seconds = time.perf_counter() - begin
    peak_bytes = peak.stop()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed with {process.returncode}:\n{printed[-2000:]}")
    figures = _own_figures(printed)
    return Measurement(figures.pop("seconds", seconds), peak_bytes, figures)


def _own_figures(printed: str) -> dict[str, float]:
    last = printed.rstrip().rpartition("\n")[2]
    found: dict[str, Any] = json.loads(last) if last.startswith('{"seconds"') else {}
    return {name: float(value) for name, value in found.items()}


@contextmanager
def _on_cpus(num: int | None) -> Iterator[None]:
    """Children that are started inside may use that many CPUs, the last ones."""
    allowed = os.sched_getaffinity(0)
    if num:
        os.sched_setaffinity(0, sorted(allowed)[-num:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


class _Peak:
    """Looks at the memory of a process and its children twenty times a second."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The most bytes that were seen."""
        self._stopped.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while True:
            self._peak = max(self._peak, _high_water(self._pid), sum(map(_proportional_bytes, _family(self._pid))))
            if self._stopped.wait(_SAMPLE_SECONDS):
                return


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # it has ended
        return
    for child in children:
        yield from _family(child)


def _proportional_bytes(pid: int) -> int:
    return _kib_field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")


def _high_water(pid: int) -> int:
    return _kib_field(Path(f"/proc/{pid}/status"), "VmHWM:")


def _kib_field(path: Path, name: str) -> int:
    try:
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    except (OSError, IndexError, ValueError):  # it has ended
        pass
    return 0
