"""Shares of a stage's work, where several machines do it. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

_SHARE = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of a stage's work this is: the index-th of num, counted from 0."""

    index: int = 0
    num: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.num}"

    @classmethod
    def of(cls, text: str) -> Share:
        """What `str` wrote; ValueError for anything else."""
        match = _SHARE.fullmatch(text)
        if not match or not 0 <= int(match[1]) < int(match[2]):
            raise ValueError(f"not a share: {text!r}. Write it as 0/4, for the first of four")
        return cls(int(match[1]), int(match[2]))


WHOLE = Share()
"""All of it."""


@dataclass(frozen=True, slots=True)
class Gathering:
    """That the shares are to be put together."""

    num: int
    lost: Collection[int] = ()
    """Those that are not going to come, and are done without."""


def ranges_of(indexes: Collection[int]) -> str:
    """Indexes as a Job's status has them: `1,3-5`."""
    parts: list[list[int]] = []
    for index in sorted(indexes):
        if parts and index == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], index]
        else:
            parts.append([index])
    return ",".join("-".join(map(str, part)) for part in parts)


def indexes_of(text: str) -> list[int]:
    """What `ranges_of` wrote, ascending; ValueError for anything else."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return sorted(found)
