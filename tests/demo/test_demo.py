"""The demo itself: its cycle file, its table, and the whole of it with another seed."""

from __future__ import annotations

import json
import mailbox
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.contracts.artifacts import artifact_key
from jobs.contracts.cycle import load_cycle
from jobs.contracts.cycle.data import WindowSpec
from jobs.contracts.cycle.learning import Gate, PromotionSpec
from outcomes import table

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "demo"
FILES = (DEMO / "cycle.yaml", ROOT / "benchmarks" / "experiments" / "linux_raid.yaml")
ROW = {
    "cycle": "demo-2025-w14", "mails": 306, "steps": 192, "before": 14.16, "after": 4.72, "delta": 0.44,
    "interval": [0.39, 0.49], "confidence": 0.95, "outcome": "Promoted", "reason": "Better",
}  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_what_keeps_a_cycle_out_is_never_a_switch(file):
    """The rules by which a week is skipped, and a candidate promoted, are the product's own."""
    spec = load_cycle(file).spec
    assert spec.promotion == PromotionSpec()
    assert spec.window == WindowSpec()
    assert spec.selection.thresholds == []
    assert not spec.suspend


def test_the_table_stands_in_columns():
    skipped = ROW | {"cycle": "demo-2025-w15", "steps": 0, "before": None, "after": None, "delta": None}
    skipped |= {"outcome": "Skipped", "reason": "TooLittleMail"}
    endless = ROW | {"interval": [None, 0.5], "confidence": 0.975}
    head, rule, *rows = table([ROW, skipped, endless]).splitlines()
    assert rows[0].split("  ")[0] == "demo-2025-w14"
    assert "14.16 → 4.72" in rows[0]
    assert "+44.0% (95%: +39.0% to +49.0%)" in rows[0]
    assert rows[1].endswith("Skipped: TooLittleMail")
    assert "(97.5%: ? to +50.0%)" in rows[2]
    column = rule.rindex(" ") + 1
    assert [line[column:].split(":")[0] for line in (head, *rows)] == ["outcome", "Promoted", "Skipped", "Promoted"]


def decisions(folder: Path, row: dict) -> list[dict]:
    archive = folder / "store" / "demo"
    keys = [artifact_key(row["cycle"], "select", "decision", attempt) for attempt in range(row["attempts"])]
    return [json.loads((archive / key).read_text()) for key in keys]


def require_sources(answer: str, weeks: Path) -> None:
    """Below an answer stand the mails that it drew on, each one of the weeks'."""
    _, sources = answer.split("\nSources\n")
    found = re.findall(r"(<\S+>)  score", sources)
    assert len(set(found)) == 5
    assert set(found) <= {mail["Message-ID"] for mbox in weeks.glob("*.mbox") for mail in mailbox.mbox(mbox)}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_with_another_seed_the_gate_promotes_one_and_keeps_one_out(tmp_path, capsys):
    command = [sys.executable, DEMO / "demo.py", tmp_path, "--seed", "11", "--older-weeks", "5", "--steps", "200"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    rows = json.loads((tmp_path / "cycles.json").read_text())
    with capsys.disabled():
        sys.stdout.write(f"\n{table(rows)}\n")
    promoted = [row for row in rows if row["outcome"] == "Promoted"]
    kept_out = [row for row in rows if row["outcome"] == "NotPromoted"]
    assert promoted
    assert kept_out
    assert len(promoted) + len(kept_out) == len(rows)
    for row in promoted:
        last = decisions(tmp_path, row)[-1]
        assert last["outcome"] == "Promote"
        assert last["interval"][0] > 0
        assert last["num_threads"] >= Gate().min_threads
        assert not any(guard["is_worse"] for guard in last["guards"])
    for row in kept_out:
        last = decisions(tmp_path, row)[-1]
        assert last["outcome"] == "KeepIncumbent"
        assert last["reason"] in {"NotBetter", "GuardWorse"}
        assert last["num_threads"] >= Gate().min_threads
    assert table(rows) in run.stdout
    require_sources((tmp_path / "answer.txt").read_text(), tmp_path / "mail" / "weeks")
    assert "\nSources\n" in run.stdout
    assert "What next?" in run.stdout
