"""Formats of what one stage writes and another one reads, perhaps of another version: each says its number itself."""

from __future__ import annotations

from typing import Any

from jobs.contracts.errors import IntegrityError

MARKER = 1
EVAL_RESULTS = 1
DECISION = 1
SHARE = 1


def require_format(value: Any, number: int, where: str, hint: str) -> None:
    """IntegrityError for an object that says to be of another format; one that says nothing is what it passes for."""
    said = value.get("format", number) if isinstance(value, dict) else number
    if said != number:
        raise IntegrityError(
            f"it is of format {said!r}; this version reads {number}",
            where=where,
            hint=f"a newer refrain may have written it; {hint}",
        )
