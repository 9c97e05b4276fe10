"""What is to be told of a cycle's mail before it is trained on: too little to judge by, or most of it left to later."""

from __future__ import annotations

from collections.abc import Collection

from jobs.contracts.records import Json
from jobs.selection.evaluation import half_of


def too_little_to_judge(val_threads: Collection[str], min_threads: int) -> list[str]:
    """What is to be told where fewer val threads (ids) fall into the judging half than a promotion needs."""
    threads = set(val_threads)
    judges = sum(half_of(one) == "gate" for one in threads)
    if judges >= min_threads:
        return []
    told = (
        f"nothing can be promoted yet: {judges} of {len(threads)} val threads may judge, and gate.minThreads is "
        f"{min_threads}: about {2 * min_threads} val threads are needed. More mail brings more; a new archive may have "
        "a larger val set (split.ratios)"
    )
    return [told]


def older_windows(split: Json, window: Json, period: str) -> list[str]:
    """What is to be told where a cycle brought several windows, by the results of its stages `split` and `window`."""
    if split["num_windows"] < 2:
        return []
    longer = "" if period == "month" else "; window.period: month makes it larger"
    new, every = window["num_new_train_messages"], split["num_messages"]["train"]
    told = (
        f"{split['num_windows']} windows are new; only the newest, with {new:,} of {every:,} train messages, is "
        f"trained on in this cycle; the older are rehearsed{longer}"
    )
    return [told]
