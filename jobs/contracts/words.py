"""Numbers as a user reads them."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun: `1 mail`, `2 mails`, `1,000 windows`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
