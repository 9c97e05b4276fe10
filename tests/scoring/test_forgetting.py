"""The forgetting matrix, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.scoring.forgetting import Row, backward_transfer, forward_transfer, loss_of, pooled, summary, sums_of


def windows(*losses: float, num_tokens: int = 10) -> list[dict[str, Any]]:
    """`val_windows` of windows 0, 1 … with these losses per token."""
    return [
        {"window_idx": number, "loss": loss * num_tokens, "num_tokens": num_tokens, "num_threads": 2}
        for number, loss in enumerate(losses)
    ]


def record(cycle: str, *losses: float, **more: Any) -> dict[str, Any]:
    window_idx = len(losses) - 1
    return (
        {"cycle": cycle, "window_idx": window_idx, "outcome": "Promoted", "sha256": cycle}
        | more
        | {"val_windows": windows(*losses)}
    )


HISTORY = [Row.of(record("a", 2.0)), Row.of(record("b", 2.5, 3.0)), Row.of(record("c", 2.25, 3.5, 1.0))]
COLUMNS = [[0], [1], [2]]


def test_neighbours_are_pooled_until_they_have_enough_different_threads() -> None:
    threads = {5: {"a", "b"}, 7: {"b", "c"}, 8: {"d"}, 9: {"e", "f", "g"}, 12: {"h"}}
    assert pooled(threads, least=3) == [[5, 7], [8, 9, 12]]
    assert pooled(threads, least=100) == [[5, 7, 8, 9, 12]]
    assert pooled(threads, least=1) == [[5], [7], [8], [9], [12]]
    assert pooled({}, least=3) == []


def test_a_columns_loss_is_per_token() -> None:
    sums = {0: (10.0, 10), 1: (60.0, 20)}
    assert loss_of(sums, [0, 1]) == pytest.approx(70 / 30)
    assert loss_of(sums, [0, 2]) is None
    assert loss_of({0: (0.0, 0)}, [0]) is None


def test_backward_transfer_by_hand() -> None:
    # (2.0 - 2.25) and (3.0 - 3.5); the last cycle's own column is not among those it could have forgotten.
    last = sums_of(windows(2.25, 3.5, 1.0))
    assert backward_transfer(HISTORY[:2], last, COLUMNS) == pytest.approx((-0.25 - 0.5) / 2)
    assert backward_transfer([], last, COLUMNS) is None


def test_a_column_of_several_windows_is_known_from_the_cycle_that_has_them_all() -> None:
    # Windows 0 and 1 together: 2.75 after b, 2.875 in the end.
    last = sums_of(windows(2.25, 3.5, 1.0))
    assert backward_transfer(HISTORY[:2], last, [[0, 1], [2]]) == pytest.approx(2.75 - 2.875)


def test_a_first_import_of_many_weeks_is_one_cycle() -> None:
    rows = [Row.of(record("a", 2.0, 2.0, 2.0))]
    assert backward_transfer(rows, sums_of(windows(2.1, 2.2, 2.3)), COLUMNS) == pytest.approx(-0.2)


def test_forward_transfer_is_over_what_was_in_service_before() -> None:
    base = sums_of(windows(9.0, 4.0, 2.0))
    kept = Row.of(record("b", 2.5, 3.0, before_val_windows=windows(2.5, 3.0)))
    promoted = Row.of(record("c", 2.25, 3.5, 1.0, before_val_windows=windows(2.5, 3.0, 1.75)))
    unknown = Row.of(record("c", 2.25, 3.5, 1.0))
    assert forward_transfer([HISTORY[0], kept, promoted], base) == pytest.approx((1.0 + 0.25) / 2)
    assert forward_transfer([HISTORY[0], kept, unknown], base) == pytest.approx(1.0)
    assert forward_transfer([HISTORY[0]], base) is None
    bare = Row.of(record("a", 2.0, sha256=""))
    assert forward_transfer([bare, kept, promoted], base) == pytest.approx(0.25)


def test_the_summary_of_a_later_cycle() -> None:
    base, incumbent, best = (
        {"path": name, "val_windows": windows(*losses)}
        for name, losses in (("base", (3.0, 4.0, 2.0)), ("incumbent", (2.5, 3.0, 1.5)), ("step_4", (2.4, 2.8, 1.0)))
    )
    found = summary(HISTORY[:2], pools=COLUMNS, base=base, incumbent=incumbent, best=best)
    assert found["windows"] == COLUMNS
    assert [row["losses"] for row in found["rows"]] == [[2.0, None, None], [2.5, 3.0, None]]
    assert found["losses"] == {"base": [3, 4, 2], "incumbent": [2.5, 3, 1.5], "best": [2.4, 2.8, 1]}
    assert found["backward_transfer"]["incumbent"] == pytest.approx(2.0 - 2.5)
    assert found["backward_transfer"]["best"] == pytest.approx(((2.0 - 2.4) + (3.0 - 2.8)) / 2)
    assert found["forward_transfer"] == pytest.approx(2.0 - 1.5)


def test_the_summary_of_a_first_cycle() -> None:
    base, best = ({"path": name, "val_windows": windows(loss)} for name, loss in (("base", 3.0), ("step_4", 2.0)))
    found = summary([], pools=[[0]], base=base, incumbent=None, best=best)
    assert found["backward_transfer"] == {"incumbent": None, "best": None}
    assert found["forward_transfer"] is None
