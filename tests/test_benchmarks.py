"""The benchmarks' own arithmetic: time, memory, ratios, and sections that replace one another."""

from __future__ import annotations

import json
import os
import re
import sys
from importlib import import_module
from pathlib import Path

import mailgen
import pytest
from components import require

from jobs.cli import main


@pytest.fixture
def benchmarks(monkeypatch):
    """The modules of benchmarks/ as they see each other."""
    require(sys.platform == "linux", "benchmarks read /proc")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    names = ("goals", "measure", "report", "rows", "run")
    yield {name: import_module(name) for name in names}
    for name in names:
        del sys.modules[name]


def program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_memory_of_children_counts_and_cpus_are_kept_to(benchmarks, tmp_path):
    measure = benchmarks["measure"].measure
    child = "import time; held = bytearray(80 << 20); time.sleep(0.6)"
    alone = measure(program(child), tmp_path)
    both = measure(
        program(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); {child}"), tmp_path
    )
    assert 80 << 20 < alone.peak_bytes < 120 << 20
    assert alone.seconds > 0.6
    assert both.peak_bytes > alone.peak_bytes
    allowed = os.sched_getaffinity(0)
    measure(program("import os; assert len(os.sched_getaffinity(0)) == 1"), tmp_path, num_cpus=1)
    assert os.sched_getaffinity(0) == allowed


def test_a_program_may_time_itself_and_a_failure_is_told(benchmarks, tmp_path):
    measure = benchmarks["measure"].measure
    assert measure(program("""print('working'); print('{"seconds": 0.25}')"""), tmp_path).seconds == 0.25
    with pytest.raises(RuntimeError, match="no such luck"):
        measure(program("raise SystemExit('no such luck')"), tmp_path)


def test_a_row_is_measured_judged_and_written_in_place_of_the_older_one(benchmarks, tmp_path):
    rows, run, report = benchmarks["rows"], benchmarks["run"], benchmarks["report"]

    def sleeper(seconds: float, **figures: float) -> list[str]:
        told = json.dumps({"seconds": seconds, **figures})
        return program(f"import time; time.sleep(0.3); print('{told}')")

    def size(folder: Path) -> int:
        return int((folder / "size").read_text())

    row = rows.Row(
        title="Sleeping",
        unit="naps",
        size=100,
        prepare=lambda folder, num: (folder / "size").write_text(str(num)),
        contestants=(
            rows.Contestant("ours", lambda folder: sleeper(size(folder) / 1000, waiting=0.25)),
            rows.Contestant("theirs", lambda folder: sleeper(size(folder) / 200), share=0.5, upto=1),
        ),
        goals=(
            rows.AtLeast(4, "theirs"),
            rows.AtLeast(6, "theirs"),
            rows.TimeAtMost(0.25, "theirs"),
            rows.TimeAtMost(0.15, "theirs"),
            rows.GrowsAtMost(1.5),
        ),
        figures=("waiting",),
        turns=2,
    )
    (tmp_path / "scratch").mkdir()
    outcomes = run.run_row(row, 2, tmp_path / "scratch")
    assert {name: sorted(sizes) for name, sizes in outcomes.items()} == {"ours": [1, 10], "theirs": [1]}
    assert outcomes["ours"][10].rate == pytest.approx(1000)
    for where in ("the old machine", "the new machine"):
        report.write_section(tmp_path / "results.md", "sleeping", row, outcomes, where)
        report.write_section(tmp_path / "results.md", "another", row, outcomes, "elsewhere")
    text = (tmp_path / "results.md").read_text()
    assert text.count("## Sleeping") == 2
    assert "the old machine" not in text
    assert "the new machine, turns: 2, 2 at 10×.\n" in text
    assert re.search(r"^\| ours \| 1,000 \|  \| \d+ MiB \| 25.0% \|", text, re.MULTILINE)
    assert re.search(r"^\| theirs \(on 50% of it\) \| 200 \| 5.0× \| \d+ MiB \|  \|", text, re.MULTILINE)
    assert "- reached: 5.0× theirs, goal ≥ 4×" in text
    assert "- **not reached**: 5.0× theirs, goal ≥ 6×" in text
    assert "- reached: takes 0.20× the time of theirs, goal ≤ 0.25×" in text
    assert "- **not reached**: takes 0.20× the time of theirs, goal ≤ 0.15×" in text
    assert "- reached: memory grows" in text
    assert text.index("row another") < text.index("row sleeping")


def test_goals_judge_rates_memory_and_what_programs_tell_of_themselves(benchmarks, tmp_path):
    rows, run, report = benchmarks["rows"], benchmarks["run"], benchmarks["report"]

    def command(folder: Path) -> list[str]:
        size = int((folder / "size").read_text())
        told = f'{{"seconds": {0.5 if size < 1000 else 0.75}, "padding": 0.03, "table": {size << 20}}}'
        return program(f"import time; time.sleep(0.2); print('{told}')")

    row = rows.Row(
        title="Growing",
        unit="mails",
        size=100,
        size_unit="mails lie there",
        work=50,
        prepare=lambda folder, num: (folder / "size").write_text(str(num)),
        contestants=(rows.Contestant("ours", command, upto=100),),
        goals=(
            rows.RateAtLeast(100, "mails"),
            rows.RateAtLeast(101, "mails"),
            rows.SlowsAtMost(1.5),
            rows.SlowsAtMost(1.4),
            rows.MemoryAtMost(1 << 30, times=10, figure="table"),
            rows.MemoryAtMost(1 << 29, times=10, figure="table"),
            rows.MemoryAtMost(1 << 29, times=1),
            rows.ShareAtMost(0.03, "padding"),
            rows.ShareAtMost(0.02, "padding"),
            rows.ShareAtMost(0.001, "padding"),
            rows.SecondsAtMost(0.75, times=10),
            rows.SecondsAtMost(0.7, times=10),
            rows.SecondsAtMost(1, times=100),
        ),
        figures=("padding",),
        turns=1,
    )
    for most in (10, 100):
        (tmp_path / f"scratch{most}").mkdir()
        outcomes = run.run_row(row, 1, tmp_path / f"scratch{most}", most)
        report.write_section(tmp_path / f"{most}.md", "growing", row, outcomes, "here")
    text = (tmp_path / "10.md").read_text()
    verdicts = [line for line in text.splitlines() if line.startswith("- ")]
    reached = [line.startswith("- reached") for line in verdicts[:-1]]
    assert reached == [True, False, True, False, True, False, True, True, False, False, True, False]
    assert verdicts[-1].startswith("- not measured here")
    assert "- **not reached**: padding 3.00%, goal ≤ 0.1%" in text
    assert "| 100 mails lie there | mails/s | ours is | memory | padding | at 10×: mails/s" in text
    assert "| ours | 100 |  |" in text
    assert "3.0% | 67 |" in text
    assert "- reached: 1 s at 100×, goal ≤ 1 s" in (tmp_path / "100.md").read_text()


def test_real_mail_is_sorted_into_weeks_by_its_date_and_none_is_lost(benchmarks, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks" / "experiments"))
    sort_mail = import_module("linux_raid").sort_mail
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    mailgen.write_mbox(corpus / "2019.mbox", 120, start="2019-08-26", days=21)
    older, weeks = sort_mail(corpus, tmp_path / "sorted")
    assert [path.stem for path in weeks] == ["2019-w36", "2019-w37"]
    for path in (older, *weeks):
        main(["parse", str(path), "-o", str(tmp_path / f"{path.stem}.jsonl")])
    counts = [len((tmp_path / f"{path.stem}.jsonl").read_text().splitlines()) for path in (older, *weeks)]
    assert sum(counts) == 120
    assert min(counts) > 30


def test_gaps_between_stages_and_writes_are_told_by_the_audit_log(benchmarks):
    stages = import_module("rows._controller").Stages("us")

    def note(user: str, verb: str, resource: str, begin: float, end: float, name: str = "walks-0001-train-0") -> None:
        kind, _, part = resource.partition("/")
        moments = {
            f"{moment}Timestamp": f"2026-01-05T03:00:{seconds:09.6f}Z"
            for moment, seconds in (("requestReceived", begin), ("stage", end))
        }
        target = {"resource": kind, "subresource": part, "name": name}
        stages.note({"user": {"username": user}, "verb": verb, "objectRef": target, "requestURI": "/apis", **moments})

    note("us", "create", "jobs", 0, 0.1)
    note("played", "patch", "jobs/status", 0.2, 0.3)  # it begins
    note("us", "list", "pods", 1.9, 2.1, "walks-0002")
    note("played", "patch", "jobs/status", 1.5, 2.0)
    note("us", "list", "pods", 1.9, 2.2)
    note("us", "list", "jobs", 2.3, 2.4)
    note("us", "create", "events", 2.4, 2.5, "walks-0001.digest")
    note("us", "create", "services", 2.5, 2.6, "train-digest")
    note("us", "create", "jobs", 3.0, 3.2)
    note("us", "patch", "retraincycles/status", 3.3, 3.4, "walks-0001")
    note("us", "create", "jobs", 3.0, 3.1, "live-0001-parse")
    assert (stages.num_jobs, stages.num_writes) == (2, 4)
    assert stages.gaps == pytest.approx([1.0])
    assert stages.own == pytest.approx([0.6])


def test_quantiles(benchmarks):
    quantile = import_module("rows._controller").quantile
    assert [quantile([3, 1, 2, 4], share) for share in (0.5, 0.75, 0.99)] == [2, 3, 4]
