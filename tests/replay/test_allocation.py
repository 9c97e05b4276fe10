"""Quotas and shares: exact, capped, and by largest remainders."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contracts.errors import UsageError
from jobs.replay.allocation import largest_remainders, minimums, parse_ratio, parse_share, replay_quota


@pytest.mark.parametrize(
    ("text", "ratio"),
    [
        ("1:4", Fraction(1, 4)),
        (" 1 : 4 ", Fraction(1, 4)),
        ("2:3", Fraction(2, 3)),
        ("0:4", Fraction(0)),
        ("0.2", Fraction(1, 4)),  # a fifth of the total is a quarter of the new
        ("20%", Fraction(1, 4)),
        ("1/5", Fraction(1, 4)),
        (0.2, Fraction(1, 4)),
        ("0", Fraction(0)),
        ("1:2.5", Fraction(2, 5)),
    ],
)
def test_ratio(text: str | float, ratio: Fraction) -> None:
    assert parse_ratio(text) == ratio


@pytest.mark.parametrize(
    "text", ["", "1:0", "1:", ":4", "-1:4", "1:-4", "1", "1.5", "-0.1", "a:b", "1:4:9", "nan", "inf"]
)
def test_bad_ratio(text: str) -> None:
    with pytest.raises(UsageError, match="not a replay ratio"):
        parse_ratio(text)


def test_bad_share_names_what_it_is() -> None:
    with pytest.raises(UsageError, match="not a cap on the share: 1"):
        parse_share("1", "cap on the share")


@pytest.mark.parametrize(
    ("num_new", "available", "ratio", "cap", "limit", "quota"),
    [
        (12, 99, "1:4", "0.2", None, 3),
        (15, 99, "1:4", "0.2", None, 3),  # 3.75
        (43, 99, "1:4", "0.1", None, 4),  # the cap: 43 / 9 = 4.77
        (40, 7, "1:4", "0.2", None, 7),
        (40, 99, "1:4", "0.2", 5, 5),
        (0, 99, "1:4", "0.2", None, 0),
        (3, 99, "1:4", "0.2", None, 0),
        (30, 99, "0.1", "0.2", None, 3),  # 30 / 9 = 3.33
        (9, 99, "1:3", "0.25", None, 3),  # just 3, with no float to fall short of it
        (49, 99, "0.02", "0.2", None, 1),
        (10**7, 10**8, "1:4", "0.2", None, 2_500_000),
    ],
)
def test_quota(*, num_new: int, available: int, ratio: str, cap: str, limit: int | None, quota: int) -> None:
    assert replay_quota(num_new, available, parse_ratio(ratio), parse_share(cap, "cap"), limit) == quota


@given(st.integers(0, 10_000), st.integers(0, 99), st.integers(0, 50), st.integers(1, 50))
def test_cap_holds(num_new: int, percent: int, replay: int, new: int) -> None:
    cap = Fraction(percent, 100)
    quota = replay_quota(num_new, 10**6, parse_ratio(f"{replay}:{new}"), cap, None)
    assert quota <= cap * (quota + num_new)
    assert quota * new <= num_new * replay


def shares(total: int, weights: list[int], capacities: list[int], ahead: list[int] | None = None) -> list[int]:
    members = len(weights)
    return largest_remainders(
        np.array([total]),
        np.zeros(members, dtype=np.int64),
        np.array(weights, dtype=np.int64),
        np.array(capacities, dtype=np.int64),
        np.array(range(members) if ahead is None else ahead, dtype=np.uint64),
    ).tolist()


def test_largest_remainders_by_hand() -> None:
    # 7 * (5, 3, 2) / 10 = 3.5, 2.1, 1.4: whole parts 3, 2, 1; the one left goes to .5.
    assert shares(7, [5, 3, 2], [9, 9, 9]) == [4, 2, 1]
    # The first is full at 2; the other 5 go by 3 : 2 = 3.0, 2.0.
    assert shares(7, [5, 3, 2], [2, 9, 9]) == [2, 3, 2]
    # Remainders of .5 twice: the larger weight first.
    assert shares(2, [1, 3], [9, 9]) == [0, 2]
    # All alike: the ones that lie least ahead.
    assert shares(2, [1, 1, 1], [9, 9, 9], ahead=[2, 0, 1]) == [0, 1, 1]
    # More than there is.
    assert shares(99, [5, 3], [2, 1]) == [2, 1]


def test_groups_do_not_mix() -> None:
    got = largest_remainders(
        np.array([3, 2]),
        np.array([1, 0, 1, 0]),
        np.array([1, 2, 3, 1]),
        np.array([9, 9, 9, 9]),
        np.arange(4, dtype=np.uint64),
    )
    # Group 0: 3 * (2, 1) / 3; group 1: 2 * (1, 3) / 4 = 0.5, 1.5, and the larger weight wins the tie.
    assert got.tolist() == [0, 2, 2, 1]


members = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 20)), min_size=1, max_size=12)


@given(st.integers(0, 200), members)
def test_largest_remainders_properties(total: int, drawn: list[tuple[int, int]]) -> None:
    weights = [weight for weight, _ in drawn]
    capacities = [capacity for _, capacity in drawn]
    got = shares(total, weights, capacities)
    assert sum(got) == min(total, sum(capacities))
    assert all(0 <= share <= capacity for share, capacity in zip(got, capacities, strict=True))
    # Those that are not full share what the full ones leave: each within one of its exact part.
    not_full = [i for i in range(len(got)) if got[i] < capacities[i]]
    full = [i for i in range(len(got)) if got[i] == capacities[i]]
    for i in not_full:
        # Nobody who is full got more, for the weight, than one who is not, but for rounding.
        assert all((got[j] - 1) * weights[i] <= (got[i] + 1) * weights[j] for j in full)
        for j in not_full:
            exact = Fraction(got[i] + got[j], weights[i] + weights[j])
            assert abs(got[i] - exact * weights[i]) <= 1


@given(members, st.integers(0, 10), st.integers(0, 250))
def test_minimums_properties(drawn: list[tuple[int, int]], minimum: int, quota: int) -> None:
    capacities = np.array([capacity for _, capacity in drawn], dtype=np.int64)
    order = np.argsort([weight for weight, _ in drawn], kind="stable")
    given_out = minimums(capacities, minimum, quota, order)
    wanted = np.minimum(capacities, minimum)
    assert (given_out <= wanted).all()
    assert given_out.sum() == min(quota, wanted.sum())
    # Round by round: nobody is two behind another who still could take.
    for i in range(len(capacities)):
        if given_out[i] < wanted[i]:
            assert given_out.max() <= given_out[i] + 1


def test_minimums_go_round_in_order() -> None:
    capacities = np.array([5, 1, 5, 5])
    # Ten wanted at 3 each (3, 1, 3, 3), eight to give: two rounds take 7, the last one goes to bucket 2.
    assert minimums(capacities, 3, 8, np.array([2, 0, 1, 3])).tolist() == [2, 1, 3, 2]
    # Fewer than buckets: the first two in order.
    assert minimums(capacities, 3, 2, np.array([2, 0, 1, 3])).tolist() == [1, 0, 1, 0]
