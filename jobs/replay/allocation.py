"""How many chunks are rehearsed, and how many of them each bucket gives. Exact integer arithmetic throughout."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from jobs.contracts.errors import UsageError
from jobs.replay.hashing import Keys

Counts = npt.NDArray[np.int64]


def parse_ratio(value: str | float) -> Fraction:
    """Rehearsal per new chunk: `1:4` is one to four, a share of the total such as `0.2` or `20%` the same.

    UsageError for anything else: rehearsal without new, a share of 1 or more, negative numbers.
    """
    text = str(value).strip()
    replay, colon, new = text.partition(":")
    if not colon:
        share = parse_share(value, "replay ratio")
        return share / (1 - share)
    parts = [_fraction(part) for part in (replay, new)]
    if parts[0] is None or parts[1] is None or parts[0] < 0 or parts[1] <= 0:
        raise UsageError(
            f"not a replay ratio: {text}", hint="write replay:new, as 1:4, or a share of the total, as 0.2"
        )
    return parts[0] / parts[1]


def parse_share(value: str | float, name: str) -> Fraction:
    """A share of the total, from 0 to under 1, exactly as it is written in decimals."""
    text = str(value).strip()
    share = _fraction(text)
    if share is None and text.endswith("%"):
        percent = _fraction(text[:-1])
        share = None if percent is None else percent / 100
    if share is None or not 0 <= share < 1:
        raise UsageError(f"not a {name}: {text}", hint="a share of the total is at least 0 and under 1, as 0.2")
    return share


def _fraction(text: str) -> Fraction | None:
    try:
        return Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        return None


def replay_quota(num_new: int, available: int, ratio: Fraction, max_share: Fraction, max_samples: int | None) -> int:
    """Chunks to rehearse in one epoch: the least of what ratio, cap on the share, limit and archive allow."""
    quota = min(int(num_new * ratio), int(num_new * max_share / (1 - max_share)), available)
    return quota if max_samples is None else min(quota, max_samples)


def minimums(capacities: Counts, minimum: int, quota: int, order: Counts) -> Counts:
    """Phase 1: `minimum` for each bucket, or all that it has.

    Where the quota is too small for that, every bucket gets the highest number that is enough for
    all (0 where the buckets outnumber the quota), and what is left goes, one each, to the first
    in `order` that have more to give.
    """
    if not len(capacities):
        return np.zeros(0, dtype=np.int64)
    low, high = 0, min(minimum, int(capacities.max()))
    while low < high:
        level = (low + high + 1) // 2
        if np.minimum(capacities, level).sum() <= quota:
            low = level
        else:
            high = level - 1
    given: Counts = np.minimum(capacities, low)
    if low < minimum:
        takers = order[capacities[order] > low][: quota - int(given.sum())]
        given[takers] += 1
    return given


def largest_remainders(totals: Counts, group: Counts, weights: Counts, capacities: Counts, ahead: Keys) -> Counts:
    """Each group's total, shared among its members in proportion to their weights, none above its capacity.

    A member whose exact share reaches its capacity gets just that, and the others share the
    rest, again in proportion; of their exact shares each gets the whole part, and what is left
    goes by the largest remainders. Ties: the larger weight, then the lower `ahead`. A total
    above the capacities' sum is cut to it.

    Args:
        totals: one for each group.
        group: the group of each member, an index into `totals`.
        weights: of each member, at least 1.
        capacities: of each member.
        ahead: settles ties; different for each member.

    """
    if totals.max(initial=0) > np.iinfo(np.int64).max // max(1, int(weights.sum())):
        raise ValueError("totals and weights are too large for 64 bits")
    capacities = np.minimum(capacities, totals[group])
    left = np.minimum(totals, sums_by(group, capacities, len(totals)))
    shares = np.zeros(len(weights), dtype=np.int64)
    unfilled = capacities > 0
    while True:
        volume = sums_by(group, weights * unfilled, len(totals))
        full = unfilled & (left[group] * weights >= capacities * volume[group])
        if not full.any():
            break
        shares[full] = capacities[full]
        left = left - sums_by(group[full], capacities[full], len(totals))
        unfilled &= ~full
    members = np.flatnonzero(unfilled)
    of = group[members]
    whole, remainders = np.divmod(left[of] * weights[members], volume[of])
    shares[members] = whole
    spare = left - sums_by(of, whole, len(totals))
    by_remainder = np.lexsort((ahead[members], -weights[members], -remainders, of))
    rank = ranks(of[by_remainder])
    winners = by_remainder[rank < spare[of[by_remainder]]]
    shares[members[winners]] += 1
    return shares


def sums_by(group: Counts, values: Counts, num_groups: int) -> Counts:
    """The sum of the values of each group's members."""
    sums = np.zeros(num_groups, dtype=np.int64)
    np.add.at(sums, group, values)
    return sums


def ranks(sorted_groups: Counts) -> Counts:
    """The place of each element among those of its group, from 0."""
    starts = (
        np.flatnonzero(np.r_[True, sorted_groups[1:] != sorted_groups[:-1]]) if len(sorted_groups) else sorted_groups
    )
    lengths = np.diff(np.r_[starts, len(sorted_groups)])
    return np.arange(len(sorted_groups)) - np.repeat(starts, lengths)
