"""Progress bars on a terminal, nothing in a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
_LEAST_COLUMNS = 20
_COLUMNS = 80
"""Where a terminal does not say how wide it is, as over some connections."""


def progress(items: Iterable[T], description: str, *, unit: str, total: int | None = None) -> Iterable[T]:
    """The same items, counted on standard error where that is a terminal."""
    return bar(description, unit=unit, total=total, items=items)


def bar(
    description: str, *, unit: str, total: int | None = None, items: Iterable[Any] | None = None, scale: bool = False
) -> tqdm[Any]:
    """A bar to be driven by hand with `update`, for work that is not a loop over items."""
    return tqdm(
        items,
        desc=description,
        unit=unit,
        total=total,
        unit_scale=scale,
        dynamic_ncols=_says_its_width(),
        ncols=None if _says_its_width() else _COLUMNS,
        leave=False,
        disable=not sys.stderr.isatty(),
    )


def _says_its_width() -> bool:
    """Whether standard error is a terminal that has a width to draw a bar in."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns >= _LEAST_COLUMNS
    except (OSError, ValueError):
        return False
