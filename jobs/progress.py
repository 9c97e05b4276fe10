"""Progress bars on a terminal, nothing in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


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
        dynamic_ncols=True,
        leave=False,
        disable=not sys.stderr.isatty(),
    )
