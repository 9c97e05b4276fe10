"""The gate's false and true promotions over 1,000 simulated cycles: see docs/selection.md for the whole table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from selection.simulation import LOSS, NONE, REAL, WEIGHTED, promoted_by_the_choosing_half, promoted_share

from jobs.contracts.cycle.learning import Gate
from jobs.selection.rules import Rules

MOST_NULLS, LEAST_REAL = 0.065, 0.80
DEFAULT = Gate().min_threads


def test_the_defaults_are_one() -> None:
    from jobs.stages.select import Config

    assert Config().min_threads == Rules().min_threads == DEFAULT


@pytest.mark.parametrize("rules", [LOSS, WEIGHTED], ids=lambda rules: rules.strategy)
def test_with_as_few_threads_as_the_default_allows(rules: Rules) -> None:
    rules = replace(rules, min_threads=DEFAULT)
    nulls = promoted_share(DEFAULT, NONE, rules)
    real = promoted_share(DEFAULT, REAL[rules.strategy], rules)
    print(f"{rules.strategy}, {DEFAULT} threads: {nulls:.1%} of nulls, {real:.1%} of real gains")  # noqa: T201
    assert 0 < nulls <= MOST_NULLS
    assert real >= LEAST_REAL


def test_fewer_would_not_do() -> None:
    """With 10 threads a real gain is missed too often; with 5, chance passes too often as well."""
    assert promoted_share(10, REAL["Weighted"], WEIGHTED) < LEAST_REAL
    assert promoted_share(10, REAL["LowestLoss"], LOSS) < LEAST_REAL
    assert promoted_share(5, NONE, LOSS) > MOST_NULLS


def test_threads_that_chose_must_not_judge() -> None:
    """The same gate over the choosing half promotes chance, even without trying again."""
    assert promoted_by_the_choosing_half(DEFAULT, LOSS) > 1.5 * MOST_NULLS


def test_under_the_default_nothing_is_promoted() -> None:
    rules = replace(LOSS, min_threads=DEFAULT)
    assert promoted_share(DEFAULT - 1, REAL["LowestLoss"], rules, 20) == 0
