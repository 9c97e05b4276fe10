"""What the controller tells of itself."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta

from prometheus_client import REGISTRY

from controller.cycles import Cycle
from controller.metrics import note_failures, note_promotions
from controller.objects import written
from controller.reconciler import _note
from controller.status import ended
from jobs.contracts.cycle.status import ENDED, CycleStatus


def told(archive: str, what: str = "promotion") -> float | None:
    return REGISTRY.get_sample_value(f"refrain_last_{what}_timestamp_seconds", {"archive": archive})


def test_the_last_promotion() -> None:
    note_promotions("promoted", promoted=[20.0, 30.0], created=[10.0, 20.0, 25.0])
    assert told("promoted") == 30.0
    note_promotions("promoted", promoted=[], created=[40.0])  # the promoted cycles' time to live is over
    assert told("promoted") == 30.0
    note_promotions("promoted", promoted=[50.0], created=[40.0])
    assert told("promoted") == 50.0


def test_without_one_time_runs_from_the_oldest_cycle_on() -> None:
    note_promotions("none", promoted=[], created=[10.0, 20.0])
    assert told("none") == 10.0
    note_promotions("none", promoted=[], created=[20.0])
    assert told("none") == 10.0
    note_promotions("none", promoted=[30.0], created=[20.0])
    assert told("none") == 30.0


def test_an_archive_without_cycles_is_not_told_of() -> None:
    """For how long it is not, the alert RefrainNoCycle tells (tests/charts/test_monitoring.py)."""
    note_promotions("empty", promoted=[], created=[])
    assert told("empty") is None
    note_promotions("empty", promoted=[], created=[20.0])
    assert told("empty") == 20.0


def test_the_last_failure() -> None:
    note_failures("failed", [])
    assert told("failed", "failure") is None
    note_failures("failed", [20.0, 30.0])
    assert told("failed", "failure") == 30.0
    note_failures("failed", [20.0])  # the last was deleted, or is tried again
    assert told("failed", "failure") == 30.0
    note_failures("failed", [20.0, 50.0])
    assert told("failed", "failure") == 50.0


def test_a_new_controller_knows_both_from_the_cycles_that_are_there() -> None:
    """Each moment from the ends of such cycles alone."""
    begin = datetime(2026, 11, 1, tzinfo=UTC)
    ends = {state: begin + timedelta(days=number) for number, state in enumerate(ENDED, start=1)}
    cycles = [
        Cycle({"metadata": {"creationTimestamp": written(begin), "uid": "u"}}, None, status)
        for status in (
            CycleStatus(state="Running"),
            *(ended(CycleStatus(), state, "Reason", "", now=now, generation=1) for state, now in ends.items()),
        )
    ]
    _note("new", cycles)
    assert told("new") == ends["Promoted"].timestamp()
    assert told("new", "failure") == ends["Failed"].timestamp()


def test_how_looks_end_is_told_from_0_on() -> None:
    """Else Prometheus would see no increase in the first defect: its series would begin with it."""
    script = "import prometheus_client as p; import controller.metrics; print(p.generate_latest().decode())"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    told = re.findall(r'^refrain_reconciles_total{outcome="(\w+)"} 0.0$', done.stdout, re.MULTILINE)
    assert set(told) == {"done", "failed", "defect"}
