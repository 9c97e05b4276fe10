"""The results as Markdown: a section for each row, replaced when the row is measured again."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from rows import AtLeast, GrowsAtMost, Row

if TYPE_CHECKING:
    from run import Outcome

_HEAD = """\
# How fast it is

Written by `make bench`. Machines are shared and noisy: what counts are the ratios, each the median over
several turns of two programs that were run in turn, on the same work. Rates are medians too. Memory is
the most that a program and its children held.
"""


def machine() -> str:
    """What this is measured on, in a line."""
    cpu = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = (
        datetime.now(UTC).strftime("%Y-%m-%d"),
        f"{os.cpu_count()} × {cpu[1] if cpu else platform.machine()}",
        f"{memory:.0f} GiB",
        f"Linux {platform.release().partition('-')[0]}",
        f"Python {platform.python_version()}",
        f"refrain {version('refrain')} ({_commit()})",
    )
    return ", ".join(parts)


def _commit() -> str:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        check=False,
        capture_output=True,
        text=True,
    )
    return described.stdout.strip() or "no commit"


def write_section(path: Path, name: str, row: Row, outcomes: Mapping[str, Mapping[int, Outcome]], where: str) -> None:
    """Put the row's section into the file, in place of an older one; sections are in the order of their names."""
    text = path.read_text() if path.exists() else ""
    sections = dict(re.findall(r"<!-- row (\w+) -->\n(.*?)<!-- /row -->", text, re.DOTALL))
    sections[name] = "\n".join(_section(row, outcomes, where)) + "\n"
    body = "\n".join(f"<!-- row {key} -->\n{sections[key]}<!-- /row -->\n" for key in sorted(sections))
    path.write_text(f"{_HEAD}\n{body}")


def _section(row: Row, outcomes: Mapping[str, Mapping[int, Outcome]], where: str) -> Iterator[str]:
    ours = outcomes[row.contestants[0].name]
    yield f"## {row.title}\n"
    versions = row.versions()
    yield f"{where}{', ' if versions else ''}{versions}.\n"
    yield f"| {row.size:,} {row.unit} | {row.unit}/s | ours is | memory | at 10×: {row.unit}/s | ours is | memory |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for contestant in row.contestants:
        cells = [_cells(outcomes[contestant.name].get(times), ours.get(times)) for times in (1, 10)]
        share = "" if contestant.share == 1 else f" (on {contestant.share:.0%} of it)"
        yield f"| {contestant.name}{share} | {' | '.join(cells)} |"
    yield ""
    for goal in row.goals:
        yield f"- {_verdict(goal, outcomes, ours)}"
    if row.note:
        yield f"\n{row.note}"


def _cells(theirs: Outcome | None, ours: Outcome | None) -> str:
    if theirs is None or ours is None:
        return "| |"
    ratio = "" if theirs is ours else f"{_ratio(ours, theirs):.1f}×"
    return f"{theirs.rate:,.0f} | {ratio} | {theirs.peak_bytes / 2**20:,.0f} MiB"


def _ratio(ours: Outcome, theirs: Outcome) -> float:
    """Our rate over theirs: the median over the turns, each beside its own."""
    return median(a / b for a, b in zip(ours.rates, theirs.rates, strict=True))


def _verdict(
    goal: AtLeast | GrowsAtMost, outcomes: Mapping[str, Mapping[int, Outcome]], ours: Mapping[int, Outcome]
) -> str:
    if isinstance(goal, AtLeast):
        value = _ratio(ours[1], outcomes[goal.against][1])
        text, reached = f"{value:.1f}× {goal.against}, goal ≥ {goal.ratio:g}×", value >= goal.ratio
    else:
        value = ours[10].peak_bytes / ours[1].peak_bytes
        text, reached = f"memory grows {value:.2f}× with 10× the work, goal ≤ {goal.ratio:g}×", value <= goal.ratio
    return f"{'reached' if reached else '**not reached**'}: {text}"
