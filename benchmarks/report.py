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

from goals import Goal, Outcomes, ratio, shown
from measure import Outcome
from rows import Row

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
        f"load average {os.getloadavg()[2]:.0f}",
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


def write_section(path: Path, name: str, row: Row, outcomes: Outcomes, where: str) -> None:
    """Put the row's section into the file, in place of an older one; sections are in the order of their names."""
    replace_section(path, _HEAD, name, "\n".join(_section(row, outcomes, where)) + "\n")


def replace_section(path: Path, head: str, name: str, section: str) -> None:
    """Put a section into a file that has this head, in place of the older one; what others wrote there stays."""
    text = path.read_text() if path.exists() else ""
    sections = dict(re.findall(r"<!-- row (\w+) -->\n(.*?)<!-- /row -->", text, re.DOTALL))
    sections[name] = section
    body = "\n".join(f"<!-- row {key} -->\n{sections[key]}<!-- /row -->\n" for key in sorted(sections))
    path.write_text(f"{head}\n{body}")


def _section(row: Row, outcomes: Outcomes, where: str) -> Iterator[str]:
    ours = outcomes[row.contestants[0].name]
    yield f"## {row.title}\n"
    said = (where, row.versions(), _turns(ours))
    yield f"{', '.join(filter(None, said))}.\n"
    columns = (f"{row.unit}/s", "ours is", "memory", *row.figures)
    head = [f"{'' if times == 1 else f'at {times}×: '}{' | '.join(columns)}" for times in ours]
    yield f"| {row.size:,} {row.size_unit or row.unit} | {' | '.join(head)} |"
    yield "|---" + "|--:" * len(columns) * len(ours) + "|"
    for contestant in row.contestants:
        found = outcomes[contestant.name]
        cells = [cell for times in ours for cell in _cells(row, found.get(times), ours[times])]
        share = "" if contestant.share == 1 else f" (on {contestant.share:.0%} of it)"
        yield f"| {contestant.name}{share} | {' | '.join(cells)} |"
    yield ""
    for goal in row.goals:
        yield f"- {_verdict(goal, outcomes, ours)}"
    if row.note:
        yield f"\n{row.note}"


def _turns(ours: Mapping[int, Outcome]) -> str:
    """How often each program was run."""
    counts = [f"{len(outcome.turns)}{'' if times == 1 else f' at {times}×'}" for times, outcome in ours.items()]
    return f"turns: {', '.join(counts)}"


def _cells(row: Row, theirs: Outcome | None, ours: Outcome) -> Iterator[str]:
    if theirs is None:
        yield from [""] * (3 + len(row.figures))
        return
    yield f"{theirs.rate:,.0f}" if theirs.rate >= 10 else f"{theirs.rate:.2g}"
    yield "" if theirs is ours else shown(ratio(ours, theirs))
    yield f"{theirs.peak_bytes / 2**20:,.0f} MiB"
    yield from (f"{theirs.figure(name):.1%}" if theirs.tells(name) else "" for name in row.figures)


def _verdict(goal: Goal, outcomes: Outcomes, ours: Mapping[int, Outcome]) -> str:
    if goal.times not in ours:
        return f"not measured here: a goal at {goal.times}× (`make bench SIZE=million`)"
    reached, text = goal.judge(outcomes)
    return f"{'reached' if reached else '**not reached**'}: {text}"
