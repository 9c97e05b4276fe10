"""How adapters do on mail of every week, cycle after cycle: the forgetting matrix R and what follows from it. Pure.

R[i, j] is the loss per token of what is in service after cycle i on the val messages of column j. A column is
a window, or some that lie side by side: one with few threads would be noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from jobs.contracts.records import Json
from jobs.scoring.results import rounded

MIN_THREADS = 10
"""A column has so many at least, or all there are."""

Sums = Mapping[int, tuple[float, int]]
"""By window, the sum of the losses (nats) and the number of tokens."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of R: what was in service after a cycle, as that cycle measured it."""

    cycle: str
    window_idx: int
    """The newest window then."""
    adapter: str
    """Digest; empty for the bare base model."""
    sums: Sums
    before: Sums | None = None
    """Likewise of what was in service when the cycle began, where that is known."""

    @classmethod
    def of(cls, record: Json) -> Row:
        """That of a file under `history/`; KeyError and its kin where it is none."""
        sums = sums_of(record["val_windows"])
        before = None if record.get("before_val_windows") is None else sums_of(record["before_val_windows"])
        return cls(str(record["cycle"]), int(record["window_idx"]), str(record.get("sha256") or ""), sums, before)


def sums_of(val_windows: Iterable[Mapping[str, Any]]) -> Sums:
    """What `val_windows` of an entry of eval_results.json says."""
    return {int(one["window_idx"]): (float(one["loss"]), int(one["num_tokens"])) for one in val_windows}


def pooled(threads: Mapping[int, set[str]], least: int = MIN_THREADS) -> list[list[int]]:
    """The windows as columns, oldest first: neighbours together until they have so many different threads.

    What is left at the end joins the column before it.
    """
    pools: list[list[int]] = []
    begun: list[int] = []
    seen: set[str] = set()
    for window in sorted(threads):
        begun.append(window)
        seen |= threads[window]
        if len(seen) >= least:
            pools.append(begun)
            begun, seen = [], set()
    if begun and pools:
        pools[-1] += begun
    elif begun:
        pools.append(begun)
    return pools


def loss_of(sums: Sums, windows: Sequence[int]) -> float | None:
    """The loss per token over some windows; None where one of them was not there, or has no token."""
    if any(window not in sums for window in windows):
        return None
    num_tokens = sum(sums[window][1] for window in windows)
    return sum(sums[window][0] for window in windows) / num_tokens if num_tokens else None


def backward_transfer(rows: Sequence[Row], last: Sums, pools: Sequence[Sequence[int]]) -> float | None:
    """Mean over columns j of R[j, j] - R[T, j]: what a model has lost, where it is negative, of what was known.

    `last` is row T, and `rows` those of the cycles before it, oldest first; R[j, j] is by the first of them that
    had all of the column. None where no column is that old.
    """
    changes = []
    for pool in pools:
        own = next((row for row in rows if row.window_idx >= pool[-1]), None)
        then, now = (None if own is None else loss_of(own.sums, pool)), loss_of(last, pool)
        if then is not None and now is not None:
            changes.append(then - now)
    return fmean(changes) if changes else None


def forward_transfer(rows: Sequence[Row], base: Sums) -> float | None:
    """Mean over cycles of b - R[before, new]: how much less the loss on a cycle's new windows is than the bare base's.

    R[before, new] is of what was in service when the cycle began, so that it had not seen those windows. More than
    0 where what was learnt helps with what comes. Cycles that had nothing but the bare base are left out; None
    where no other is left.
    """
    gains = []
    for former, row in pairwise(rows):
        new = [window for window in row.sums if former.window_idx < window <= row.window_idx]
        if new and row.before is not None and former.adapter:
            own, bare = loss_of(row.before, new), loss_of(base, new)
            gains += [bare - own] if own is not None and bare is not None else []
    return fmean(gains) if gains else None


def summary(
    history: Sequence[Row], *, pools: Sequence[Sequence[int]], base: Json, incumbent: Json | None, best: Json
) -> Json:
    """As eval_results.json has it: R, one row a cycle, and what is in service and the best checkpoint beside it.

    `base`, `incumbent` and `best` are entries of this cycle. Losses are by column, null where a row does not have it.
    """
    rows = {
        name: sums_of(one["val_windows"])
        for name, one in (("base", base), ("incumbent", incumbent), ("best", best))
        if one
    }
    in_service = rows.get("incumbent", rows["base"])
    own_row = Row("", max((max(pool) for pool in pools), default=0), "", in_service, before=in_service)
    return {
        "windows": [list(pool) for pool in pools],
        "rows": [
            {
                "cycle": row.cycle,
                "window_idx": row.window_idx,
                "sha256": row.adapter,
                "losses": _losses(row.sums, pools),
            }
            for row in history
        ],
        "best_path": best["path"],
        "losses": {name: _losses(sums, pools) for name, sums in rows.items()},
        "backward_transfer": {
            "incumbent": rounded(backward_transfer(history[:-1], rows["incumbent"], pools)) if incumbent else None,
            "best": rounded(backward_transfer(history, rows["best"], pools)),
        },
        "forward_transfer": rounded(forward_transfer([*history, own_row], rows["base"])) if history else None,
    }


def _losses(sums: Sums, pools: Sequence[Sequence[int]]) -> list[float | None]:
    return [rounded(loss_of(sums, pool)) for pool in pools]
