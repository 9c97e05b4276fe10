"""Two rankings made one: reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

RANK_CONSTANT = 60
"""The k of the paper: the larger it is, the less the first places count."""


def fuse(rankings: Mapping[str, Sequence[str]]) -> list[tuple[str, float, dict[str, int]]]:
    """What stands in any ranking, best first: id, the sum of 1 / (60 + rank), and its ranks, from 1, by ranking.

    Equal sums are in the order of their ids.
    """
    ranks: dict[str, dict[str, int]] = {}
    for name, ranking in rankings.items():
        for rank, one in enumerate(ranking, 1):
            ranks.setdefault(one, {})[name] = rank
    scores = {one: sum(1 / (RANK_CONSTANT + rank) for rank in places.values()) for one, places in ranks.items()}
    return [(one, scores[one], ranks[one]) for one in sorted(ranks, key=lambda one: (-scores[one], one))]
