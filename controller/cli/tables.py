"""Tables and moments as people read them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any

from controller.cycles import Cycle
from controller.objects import moment
from controller.status import condition_of
from jobs.contracts.cycle.status import Progress, StageStatus

LIST_HEADER = ("NAME", "ARCHIVE", "STATE", "STAGE", "PROGRESS", "WINDOW", "DELTA", "PROMOTED", "AGE")
_STAGE_HEADER = ("STAGE", "ATTEMPT", "RUN", "STATE", "STARTED", "TOOK", "RESULT")
_MOST_RESULT = 72
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def table(header: Sequence[str], rows: Collection[Sequence[str]], right: Collection[str] = ()) -> Iterator[str]:
    """Lines of a table; columns named in `right` are aligned to the right, and the last one is not padded."""
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]
    for row in (header, *rows):
        cells = [
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(header, row, widths, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def cycle_table(cycles: Collection[Cycle], now: datetime) -> Iterator[str]:
    """The cycles, a line each."""
    return table(LIST_HEADER, [_row(one, now) for one in cycles], right={"PROGRESS", "WINDOW", "DELTA", "AGE"})


def _row(cycle: Cycle, now: datetime) -> tuple[str, ...]:
    status = cycle.status
    progress = status.progress
    promoted = condition_of(status, "Promoted")
    return (
        cycle.name,
        cycle.archive,
        status.state,
        status.stage or "-",
        f"{progress.percent:.0f}%" if progress and progress.percent is not None else "-",
        str(status.window_idx) if status.window_idx is not None else "-",
        f"{status.decision.delta:+.4f}" if status.decision and status.decision.delta is not None else "-",
        promoted.status if promoted else "-",
        age(str(cycle.raw["metadata"]["creationTimestamp"]), now),
    )


def stage_table(stages: Collection[StageStatus], now: datetime) -> Iterator[str]:
    """The stages that have begun, a line each."""
    return table(_STAGE_HEADER, [_stage_row(one, now) for one in stages], right={"ATTEMPT", "RUN", "TOOK"})


def _stage_row(entry: StageStatus, now: datetime) -> tuple[str, ...]:
    said = plain(entry.message) if entry.message else result_words(entry.result)
    return (
        entry.name,
        str(entry.attempt),
        str(entry.run),
        entry.state,
        at(entry.started_at),
        took(entry, now),
        said if len(said) <= _MOST_RESULT else f"{said[: _MOST_RESULT - 1]}…",
    )


def took(entry: StageStatus, now: datetime) -> str:
    """How long a stage's run has taken, or takes by now."""
    end = moment(entry.completed_at) if entry.completed_at else now
    return duration((end - moment(entry.started_at)).total_seconds())


def result_words(result: dict[str, Any]) -> str:
    """What a stage told at its end, in a few words: its plain values."""
    return plain(", ".join(filter(None, (_value(key, value) for key, value in result.items()))))


def _value(key: str, value: Any) -> str:
    words = key.removeprefix("num_").replace("_", " ")
    if isinstance(value, bool):
        return words if value else ""
    if isinstance(value, int) and key.startswith("num_"):
        return f"{value:,} {words}"
    if isinstance(value, float):
        return f"{words} {value:.4g}"
    if isinstance(value, str):
        return f"{words} {value[:12] if key == 'sha256' else value}" if value else ""
    return f"{words} {value}" if isinstance(value, int) else ""


def progress_words(progress: Progress) -> str:
    """How far a stage is: `43%, 21m left, loss 2.13`."""
    said = [
        f"{progress.percent:.0f}%" if progress.percent is not None else "",
        f"{duration(progress.eta_seconds)} left" if progress.eta_seconds is not None else "",
        f"loss {progress.loss:.4g}" if progress.loss is not None else "",
    ]
    return ", ".join(filter(None, said))


def age(since: str, now: datetime) -> str:
    """How long ago, as kubectl shows it: the largest unit alone, and for small numbers the next one."""
    return duration((now - moment(since)).total_seconds())


def duration(seconds: float) -> str:
    """`42s`, `3m20s`, `21m`, `5h10m`, `12d`: two units where the larger one is below 10."""
    left = max(0, int(seconds))
    for place, (unit, size) in enumerate(_UNITS):
        if left >= size:
            rest = _UNITS[place + 1 : place + 2]
            more = left % size // rest[0][1] if rest and left // size < 10 else 0
            return f"{left // size}{unit}" + (f"{more}{rest[0][0]}" if more else "")
    return "0s"


def at(time: str) -> str:
    """A moment as Kubernetes writes it, a little easier on the eye: UTC."""
    return time.replace("T", " ")


def plain(text: str) -> str:
    """Without what would steer a terminal: the words come from pods."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
