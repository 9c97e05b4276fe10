"""The schedule's bytes: what they hold, and that they never change."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path

from replay.builders import archive, entry

from jobs.replay import StratifiedReplaySampler
from jobs.replay.schedule_file import write_schedule

DIGEST = "59a59e1254286fa600f0970789ce5b4086154752cf50ede623143bd892fdd906"
"""Of the schedule below. A change of this number changes every schedule there ever was: do not."""


def sampler(**options: object) -> StratifiedReplaySampler:
    entries = [one for one in archive() if one.split == "train"]
    old = [one for one in entries if one.window_idx < 9]
    new = [one for one in entries if one.window_idx == 9]
    return StratifiedReplaySampler(old, new, **options)  # type: ignore[arg-type]


def test_pinned(tmp_path: Path) -> None:
    path = tmp_path / "epoch_schedule.json"
    write_schedule(path, sampler(batch_size=4))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == DIGEST


def test_is_json_of_the_batches_and_the_report(tmp_path: Path) -> None:
    path = tmp_path / "epoch_schedule.json"
    mixed = sampler(batch_tokens=4096, num_epochs=2, replay_ratio="0.1")
    report = write_schedule(path, mixed)
    schedule = json.loads(path.read_text())
    assert [epoch["epoch"] for epoch in schedule["epochs"]] == [0, 1]
    for epoch, batches in zip(schedule["epochs"], mixed.schedule(), strict=True):
        assert epoch["batches"] == [
            {"source": b.source, "length_bucket": b.length_bucket, "num_tokens": b.num_tokens, "chunk_ids": b.chunk_ids}
            for b in batches
        ]
    assert {key: schedule[key] for key in ("format", "seed", "window_idx", "replay_ratio", "max_share")} == {
        "format": 1, "seed": 42, "window_idx": 9, "replay_ratio": "1:9", "max_share": 0.2,
    }  # fmt: skip
    assert schedule["batch_tokens"] == 4096
    assert schedule["batch_size"] is None
    told = schedule["report"]
    assert told["share_chunks"] == report.share_chunks > 0
    assert sum(row["drawn"] for row in told["senders"]) == sum(row["drawn"] for row in told["strata"])
    assert sum(row["drawn"] for row in told["strata"]) == told["num_replay_chunks"] == 2 * mixed.quota
    assert abs(sum(row["share"] for row in told["strata"]) - 1) < 1e-4


def test_one_batch_a_line(tmp_path: Path) -> None:
    path = tmp_path / "epoch_schedule.json"
    report = write_schedule(path, sampler())
    lines = path.read_text().splitlines()
    assert sum(line.startswith('{"source"') for line in lines) == report.num_batches


def test_an_empty_schedule_is_json_too(tmp_path: Path) -> None:
    path = tmp_path / "epoch_schedule.json"
    write_schedule(path, StratifiedReplaySampler([], []))
    schedule = json.loads(path.read_text())
    assert [epoch["batches"] for epoch in schedule["epochs"]] == [[], [], []]
    assert schedule["report"]["share_chunks"] == 0


def test_epochs_cost_no_memory(tmp_path: Path) -> None:
    """The schedule of many epochs is written without being held."""
    new = [entry(f"thread_{i:024x}_window_0", "t", tokens=100) for i in range(5000)]

    def peak(num_epochs: int) -> int:
        mixed = StratifiedReplaySampler([], new, num_epochs=num_epochs)
        tracemalloc.start()
        write_schedule(tmp_path / "schedule.json", mixed)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1)
    assert peak(20) < 1.2 * peak(2)
