"""`refrain promote`: over a store with rollback and history, and over plain files."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from selection.builders import decided, put_adapter, put_decision

from jobs.assignments.archive import Archive
from jobs.cli import main
from jobs.contracts.artifacts import marker_key
from jobs.production import records

if TYPE_CHECKING:
    from conftest import Refrain

    from jobs.contracts.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Cycle a has promoted, b's attempt 1 is to be promoted, c's winner is no better."""
    store = Archive.open((tmp_path / "archive").as_uri()).store
    first, second = (put_adapter(store, cycle, "step_4", tmp_path) for cycle in ("a", "b"))
    put_decision(store, "a", decided("Promote", first, window_idx=1))
    put_decision(store, "b", decided("Retrain", None, first["sha256"], window_idx=2))
    put_decision(store, "b", decided("Promote", second, first["sha256"], window_idx=2), attempt=1)
    put_decision(store, "c", decided("KeepIncumbent", None, second["sha256"], window_idx=3))
    return store


@pytest.fixture
def promote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs it on the store in the folder, in this process; standard output and error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, code: int = 0, url: str = "./archive") -> str:
        monkeypatch.setenv("REFRAIN_STORE", url)
        ended = 0
        try:
            main(["promote", *map(str, arguments)])
        except SystemExit as stop:
            ended = int(stop.code or 0)
        told = capfd.readouterr()
        assert ended == code, told.err
        return told.out + told.err

    return run


def test_weeks_of_a_store(store: Store, promote: Any, tmp_path: Path) -> None:
    link = tmp_path / "archive" / ".production"
    assert "promote: Promoted (record 1): because" in promote("--cycle", "a")
    assert "promote: Promoted (record 2)" in promote("--cycle", "b")
    assert link.readlink() == Path("cycles/b/train/checkpoints/step_4")
    assert "promote: NotPromoted: because" in promote("--cycle", "c")
    assert "promote of cycle b had finished" in promote("--cycle", "b")
    back = promote("--rollback")
    assert "promote: the adapter of cycle a" in back
    assert re.search(
        r"adapter of cycle b \(.*\) was taken out; `refrain promote --rollback --to 2` brings it back", back
    )
    assert link.readlink() == Path("cycles/a/train/checkpoints/step_4")
    assert "is in service already" in promote("--rollback", "--to", "1")
    table = [line.split() for line in promote("--history").splitlines()]
    assert [line[:3] for line in table[1:]] == [
        ["1", "promote", "a"],
        ["2", "promote", "b"],
        ["3", "rollback", "a"],
        ["kept", "out", "c"],
    ]
    assert [line[-2:] == ["in", "service"] for line in table[1:]] == [False, False, True, False]
    assert "the bare base model is in service (record 4)" in promote("--rollback")
    assert not os.path.lexists(link)
    assert "nothing to roll back" in promote("--rollback", code=66)
    assert [one.seq for one in records(store)] == [1, 2, 3, 4]


def test_the_history_of_an_archive_without_any_says_so(store: Store, promote: Any) -> None:
    head, said = promote("--history").splitlines()
    assert head.split()[:3] == ["seq", "action", "cycle"]
    assert said == "promote: no cycle has ended yet: the bare base model is in service"


def test_what_an_earlier_run_has_left_behind_is_no_newest_attempt(store: Store, promote: Any) -> None:
    left = orjson.loads(store.get(marker_key("a", "select")))
    left["result"]["outcome"] = "Retrain"
    store.put(marker_key("a", "select", 1), orjson.dumps(left))
    assert "promote: Promoted (record 1): because" in promote("--cycle", "a")


def test_by_hand(store: Store, promote: Any) -> None:
    told = promote("--cycle", "a", "--mode", "Manual")
    sha256 = told.partition("--approve ")[2].partition(",")[0]
    assert "AwaitingApproval: step_4 waits to be approved" in told
    assert "is approved, but the candidate is" in promote("--cycle", "a", "--approve", "0" * 64, code=78)
    assert list(records(store)) == []
    assert "Promoted (record 1)" in promote("--cycle", "a", "--mode", "Manual", "--approve", sha256)


def test_withheld(store: Store, promote: Any) -> None:
    assert "promote: NotPromoted: it did not load" in promote("--cycle", "a", "--withhold", "NotReady: it did not load")
    assert list(records(store)) == []
    assert promote("--history").splitlines()[1].split()[-1] == "NotReady"
    assert "not a reason and a message" in promote("--cycle", "b", "--attempt", "1", "--withhold", "no", code=2)


def test_an_adapter_that_is_gone_is_not_rolled_back_to(store: Store, promote: Any) -> None:
    promote("--cycle", "a")
    promote("--cycle", "b")
    store.delete("cycles/a/train/checkpoints/step_4/_COMPLETE.json")
    assert "the adapter is not there, or not whole" in promote("--rollback", code=66)
    assert len(list(records(store))) == 2


def test_afterwards(store: Store, promote: Any, tmp_path: Path) -> None:
    told = promote("--cycle", "a", "--after", 'echo "$REFRAIN_ADAPTER" > told; exit 4', "--link", "live")
    assert "exit code 4; the promotion stands" in told
    assert (tmp_path / "told").read_text().strip().endswith("archive/cycles/a/train/checkpoints/step_4")
    assert (tmp_path / "live" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "url", "code", "told"),
    [
        (["--cycle", "none"], "./archive", 66, "select of cycle none has not finished"),
        (["--cycle", "a"], "./mistyped", 66, "mistyped: no such folder"),
        (["--rollback"], "./mistyped", 66, "mistyped: no such folder"),
        (["--rollback"], "./archive", 66, "nothing to roll back"),
        (["--rollback", "--history"], "./archive", 2, "both --rollback and --history"),
        (["--to", "3"], "./archive", 2, "--to is for --rollback"),
        (["--rollback"], "", 2, "records are kept in a store"),
        (["--decision", "none.json"], "", 66, "none.json: no such file"),
        (["--cycle", "a", "--decision", "d.json"], "./archive", 2, "both a store"),
    ],
)
def test_bad_input(store: Store, promote: Any, arguments: list[str], url: str, code: int, told: str) -> None:
    assert told in promote(*arguments, code=code, url=url)
    assert list(records(store)) == []


def test_plain_files(refrain: Refrain, tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step_4").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step_4" / "adapter_model.safetensors").write_text("weights")
    (tmp_path / "decision.json").write_text(json.dumps(decided("Promote", {"path": "step_4", "sha256": ""})))
    done = refrain(
        "promote",
        *("--decision", "decision.json", "--checkpoints-dir", "checkpoints", "--link", "production"),
        cwd=tmp_path,
        env={"REFRAIN_STORE": ""},
    )
    assert done.returncode == 0, done.stderr
    assert "promote: Promoted: because" in done.stderr
    assert (tmp_path / "production").readlink() == Path("checkpoints/step_4")
    assert json.loads((tmp_path / "production.json").read_text())["outcome"] == "Promoted"
