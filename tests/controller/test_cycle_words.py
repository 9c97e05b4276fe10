"""What `refrain cycle` says: tables, one cycle in words, changes and errors."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from controller_world import WINNER, World
from hypothesis import given
from hypothesis import strategies as st

from controller.cli.tables import age, cycle_table, duration, stage_table
from controller.cli.told import changes, described, end_words, failure, newest, status_line
from controller.cycles import Cycle, read_cycle
from controller.objects import written
from jobs.contracts.errors import InputError, MissingInputError, RefrainError, TransientError

NOW = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)


def cycle(state: str = "Running", name: str = "w1", minutes: float = 0, **status: Any) -> Cycle:
    world = World(now=NOW - timedelta(minutes=90))
    world.add(name)
    raw = world.cycles[name]
    raw["status"] = {"state": state, **status}
    return read_cycle(raw)


def entry(name: str, state: str, minutes: float, **others: Any) -> dict[str, Any]:
    started = NOW - timedelta(minutes=minutes)
    ended = {} if state == "Running" else {"completedAt": written(started + timedelta(seconds=95))}
    return {"name": name, "state": state, "job": f"w1-{name}-0-0-abc", "startedAt": written(started), **ended, **others}


def condition(kind: str, truth: str, reason: str, message: str = "") -> dict[str, Any]:
    since = written(NOW - timedelta(minutes=3))
    return {"type": kind, "status": truth, "reason": reason, "message": message, "lastTransitionTime": since}


def test_a_table_of_cycles():
    rows = [
        cycle(
            stage="train",
            windowIdx=212,
            progress={"percent": 43.4},
            stages=[entry("train", "Running", 5)],
        ),
        cycle(
            "Promoted",
            "linux-raid-2026-w47",
            stage="promote",
            decision={"outcome": "Promote", "delta": 0.03127},
            conditions=[condition("Promoted", "True", "Better")],
        ),
        cycle("Pending", "new"),
    ]
    assert list(cycle_table(rows, NOW)) == [
        "NAME                 ARCHIVE   STATE     STAGE    PROGRESS  WINDOW    DELTA  PROMOTED    AGE",
        "w1                   workshop  Running   train         43%     212        -  -         1h30m",
        "linux-raid-2026-w47  workshop  Promoted  promote         -       -  +0.0313  True      1h30m",
        "new                  workshop  Pending   -               -       -        -  -         1h30m",
    ]


def test_a_table_of_stages():
    stages = cycle(
        stages=[
            entry("parse", "Succeeded", 80, result={"num_mails": 1200, "sha256": "ab" * 32, "skipped": False, "x": {}}),
            entry("train", "Failed", 5, attempt=1, run=2, message="train: \x1b[31mno"),
        ]
    ).status.stages
    assert list(stage_table(stages, NOW)) == [
        "STAGE  ATTEMPT  RUN  STATE      STARTED                TOOK  RESULT",
        "parse        0    0  Succeeded  2026-01-05 04:40:00Z  1m35s  1,200 mails, sha256 abababababab",
        "train        1    2  Failed     2026-01-05 05:55:00Z  1m35s  train:  [31mno",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-3, "0s"),
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (200, "3m20s"),
        (1260, "21m"),
        (18_600, "5h10m"),
        (864_000, "10d"),
    ],
)
def test_durations(seconds: float, said: str):
    assert duration(seconds) == said
    assert age(written(NOW), NOW + timedelta(seconds=seconds)) == said


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_a_longer_duration_never_reads_as_a_shorter_one(one: float, other: float):
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

    def read(text: str) -> int:
        return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([smhd])", text))

    assert (read(duration(one)) <= read(duration(other))) == (one <= other) or read(duration(one)) == read(
        duration(other)
    )
    assert 0 <= one - read(duration(one)) < max(1, one / 5)


def test_a_failed_cycle_says_once_what_to_do():
    failed = cycle(
        "Failed",
        stage="train",
        stages=[entry("train", "Failed", 5, message="train: cut (exit code 65)")],
        conditions=[
            condition("Accepted", "True", "Accepted", "the spec is followed as it stands"),
            condition("Complete", "True", "StageFailed", "train: cut (exit code 65)"),
            condition("Succeeded", "False", "StageFailed", "train: cut (exit code 65)"),
            condition("Promoted", "False", "StageFailed", "train: cut (exit code 65)"),
        ],
    )
    event = {"type": "Warning", "reason": "StageFailed", "message": "cut", "lastTimestamp": written(NOW)}
    lines = list(described(failed, [event], NOW))
    assert lines[:3] == [
        "cycle     w1 in namespace mail, created 1h30m ago",
        "state     Failed: train",
        "archive   workshop in s3://refrain",
    ]
    assert "  Succeeded False: StageFailed, 3m ago" in lines
    (todo,) = [line for line in lines if "→" in line]
    assert "refrain cycle retry w1" in todo
    assert "refrain cycle logs w1 train" in todo
    assert lines[-1] == "  0s ago  Warning StageFailed: cut"


def test_a_cycle_that_awaits_approval_shows_its_candidate():
    waiting = cycle(
        "AwaitingApproval",
        stage="select",
        candidate={"adapter": "cycles/w1/step_4", "sha256": WINNER, "scores": {"ppl": 3.5}},
        decision={"outcome": "Promote", "reason": "Better", "delta": 0.1, "interval": [0.05, 0.15], "message": "well"},
        conditions=[condition("Progressing", "Unknown", "AwaitingApproval", "set it")],
    )
    lines = list(described(waiting, [], NOW))
    assert f"candidate cycles/w1/step_4 {WINNER} ppl 3.5" in lines
    assert "decision  Promote (Better): +0.1000 (+0.0500 to +0.1500): well" in lines
    assert "    → look at it with refrain cycle show w1, then refrain cycle approve w1" in lines


def test_a_cycle_of_a_newer_version_is_shown_all_the_same():
    world = World(now=NOW)
    world.add("w1", archive={"is": "a map now"})
    lines = list(described(read_cycle(world.cycles["w1"]), [], NOW))
    assert any(line.startswith("problem   spec.archive: ") for line in lines)


def test_what_changes_is_told_once():
    running = {"stage": "train", "stages": [entry("parse", "Succeeded", 80, result={"num_mails": 3})]}
    first = cycle("Queued", conditions=[condition("Progressing", "Unknown", "Queued", "waits for w0")])
    second = cycle(**running, conditions=[condition("Progressing", "True", "StageRunning", "parse runs")])
    running["stages"] = [*running["stages"], entry("train", "Running", 5, attempt=1)]
    at = written(NOW)
    third = cycle(**running, progress={"percent": 43, "etaSeconds": 1260, "loss": 2.13, "at": at})
    fourth = cycle(**running, progress={"percent": 49, "etaSeconds": 1200, "loss": 2.1, "at": at})
    assert list(changes(None, first, NOW)) == ["2026-01-05 05:57:00Z  Queued: waits for w0; wait, or resume that cycle"]
    assert list(changes(first, second, NOW)) == ["2026-01-05 04:41:35Z  parse: done in 1m35s: 3 mails"]
    assert list(changes(second, third, NOW)) == [
        "2026-01-05 05:55:00Z  train, attempt 1: runs as w1-train-0-0-abc",
        "2026-01-05 06:00:00Z  train: 43%, 21m left, loss 2.13",
    ]
    assert list(changes(third, third, NOW)) == []
    assert list(changes(third, fourth, NOW)) == []
    assert status_line(fourth, NOW) == "train ██████████░░░░░░░░░░ 49%, 20m left, loss 2.1"
    assert status_line(first, NOW) == "Queued, for 3m"


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("train: x: cut (exit code 65)", InputError),
        ("train: it crashed (exit code 1)", RefrainError),
        ("split: no such bucket (exit code 66)", MissingInputError),
        ("train: killed (exit code 137)", TransientError),
        ("the cycle has taken longer than its deadlineSeconds of 5", TransientError),
    ],
)
def test_a_failure_has_the_exit_code_of_its_stage(message: str, kind: type[RefrainError]):
    ended = [condition("Succeeded", "False", "StageFailed", message), condition("Complete", "True", "X", message)]
    failed = cycle("Failed", stage="train", conditions=ended)
    error = failure(failed)
    assert type(error) is kind
    assert (error.where, error.what) == ("w1", message)
    assert "refrain cycle retry w1" in error.hint
    assert end_words(failed) == f"Failed: {message}"


def test_the_newest_events():
    times = [{"metadata": {"creationTimestamp": written(NOW - timedelta(seconds=n))}, "n": n} for n in (3, 1, 2)]
    assert [one["n"] for one in newest(times, 2)] == [2, 1]


def test_help_loads_nothing_heavy():
    program = """
import sys
from jobs.cli import cli
try:
    cli.main(args=sys.argv[1:], prog_name="refrain")
finally:
    print(sorted({"kopf", "kubernetes", "pydantic", "prometheus_client", "urllib3", "orjson"} & sys.modules.keys()))
"""
    for arguments in (["--help"], ["cycle", "--help"], ["cycle", "watch", "--help"], ["controller", "--help"]):
        run = subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True)
        assert run.stdout.splitlines()[-1] == "[]"
