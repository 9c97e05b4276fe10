"""Seeded choices. Only `Random.random` is used: the one thing that Python promises never to change."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """A generator of its own for each purpose: what one part draws does not move the others."""

    def __init__(self, *seed: object) -> None:
        self.draw = random.Random(" ".join(map(str, seed))).random

    def below(self, number: int) -> int:
        """0 to number - 1."""
        return int(self.draw() * number)

    def between(self, least: int, most: int) -> int:
        """Least to most, both included."""
        return least + self.below(most - least + 1)

    def chance(self, share: float) -> bool:
        """True in that share of the cases."""
        return self.draw() < share

    def pick(self, items: Sequence[T]) -> T:
        """One of them."""
        return items[self.below(len(items))]

    def some(self, items: Sequence[T], number: int) -> list[T]:
        """That many different ones, in the order drawn; all of them, shuffled, where there are fewer."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(min(number, len(left)))]
