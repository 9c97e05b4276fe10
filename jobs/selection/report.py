"""A decision as a short table for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jobs.contracts.records import Json

_HEADS = ("checkpoint", "score", "val ppl", "rag")


def table_of(decision: Json) -> Iterator[str]:
    """The candidates with their scores on the choosing half, and why each other one lost."""
    several = decision["attempts"] > 1
    rows = [_row(one, several=several) for one in decision["candidates"]]
    widths = [max(len(row[column]) for row in [_HEADS, *rows]) for column in range(len(_HEADS))]
    yield _line(_HEADS, widths)
    for row, one in zip(rows, decision["candidates"], strict=True):
        yield f"{_line(row, widths)}  {one['lost_because'] or '<- the best'}"


def _row(one: Mapping[str, Any], *, several: bool) -> tuple[str, ...]:
    name = f"{one['path']} (attempt {one['attempt'] + 1})" if several else one["path"]
    return (name, *(_number(one[key]) for key in ("score", "val_perplexity", "rag_accuracy")))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:#.5g}"


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    name, *numbers = cells
    return "  ".join(
        [name.ljust(widths[0]), *(one.rjust(width) for one, width in zip(numbers, widths[1:], strict=True))]
    )


def sentence_of(decision: Json) -> str:
    """The decision in one sentence."""
    verb = {"Promote": "promote", "KeepIncumbent": "keep the incumbent", "Retrain": "train again"}[decision["outcome"]]
    return f"{verb} ({decision['reason']}): {decision['message']}"
