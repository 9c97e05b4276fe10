"""What the controller tells of itself."""

from __future__ import annotations

import re
import subprocess
import sys

from prometheus_client import REGISTRY

from controller.metrics import note_promotions


def told(archive: str) -> float | None:
    return REGISTRY.get_sample_value("refrain_last_promotion_timestamp_seconds", {"archive": archive})


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


def test_how_looks_end_is_told_from_0_on() -> None:
    """Else Prometheus would see no increase in the first defect: its series would begin with it."""
    script = "import prometheus_client as p; import controller.metrics; print(p.generate_latest().decode())"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    told = re.findall(r'^refrain_reconciles_total{outcome="(\w+)"} 0.0$', done.stdout, re.MULTILINE)
    assert set(told) == {"done", "failed", "defect"}
