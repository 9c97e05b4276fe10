"""What a stage's pod runs: one stage, its result or its error as the termination message, its result once more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from components import require
from local.cycles import WEEKS, cycle_of, document, spec_of, workplace
from selection.builders import decided, put_adapter, put_decision

from jobs.cli import main
from jobs.contracts.artifacts import finished_key, marker_key
from jobs.contracts.errors import ConfigError
from jobs.contracts.folder_store import FolderStore
from jobs.contracts.markers import read_marker
from jobs.contracts.progression import Step
from jobs.contracts.termination import Failure, Termination, decode
from jobs.local.session import Session
from jobs.production import records


def run_main(*args: object) -> int:
    try:
        return int(main([str(arg) for arg in args]))
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with mail, and a cycle as a pod gets it: JSON on one line."""
    place = workplace(tmp_path / "place", weeks=WEEKS[:2])
    (place / "cycle.json").write_text(json.dumps(document("w1", spec_of())))
    return place


@pytest.fixture
def store(place: Path) -> FolderStore:
    return FolderStore(place / "store" / "workshop")


def only(place: Path, stage: str, *flags: object) -> tuple[int, bytes]:
    """Run a stage as its pod does; exit code and termination message."""
    log = place / "termination-log"
    code = run_main("run", place / "cycle.json", "--only", stage, "--termination-log", log, *flags)
    return code, log.read_bytes()


def told(message: bytes, stage: str, attempt: int = 0) -> Termination:
    termination = decode(message, stage, attempt)
    assert termination is not None
    return termination


def test_a_stage_tells_its_result(place: Path, store: FolderStore, capfd: pytest.CaptureFixture[str]) -> None:
    for stage in ("parse", "split", "window"):
        code, message = only(place, stage, "--owner", "cluster/mail")
        marker = read_marker(store, stage, "w1")
        assert code == 0
        assert marker is not None
        assert told(message, stage) == Termination(stage, 0, marker["result"])
        assert only(place, stage, "--owner", "cluster/mail") == (0, message), "that it had finished is no result"
    assert set(json.loads(message)) == {"stage", "attempt", "result"}
    assert "without a cluster" not in capfd.readouterr().err


def test_a_stage_tells_why_it_failed(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "mail.mbox").unlink()
    code, message = only(place, "parse", "--json")
    failure = told(message, "parse").failure
    assert code == 66
    assert failure is not None
    assert (failure.kind, failure.exit_code) == ("MissingInputError", 66)
    assert "mail.mbox" in failure.where
    assert failure.what in capfd.readouterr().err
    (place / "cycle.json").write_text("{}")
    code, message = only(place, "parse")
    assert (code, told(message, "parse").failure.kind) == (78, "ConfigError")  # type: ignore[union-attr]


def test_of_a_whole_cycle_that_has_ended(place: Path) -> None:
    (place / "cycle.json").write_text(json.dumps(document("w1", spec_of(window={"minNewMessages": 99}))))
    assert run_main("run", place / "cycle.json") == 0
    code, message = only(place, "window")
    assert (code, told(message, "window").result["skipped"]) == (0, True)  # type: ignore[index]
    assert only(place, "train") == (0, b""), "it never ran: there is nothing to tell"


@pytest.fixture
def harmed(place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs parse with something happening in it."""

    def run(happens: Any) -> tuple[int, bytes]:
        monkeypatch.setattr("jobs.stages.parse.run", lambda *_: happens())
        return only(place, "parse")

    return run


def test_a_defect_is_told_too(place: Path, harmed: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        harmed(lambda: 1 / 0)
    message = (place / "termination-log").read_bytes()
    assert told(message, "parse").failure == Failure("ZeroDivisionError", 1, "division by zero")


def test_a_full_disk_under_standard_output_is_no_defect(harmed: Any) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    code, message = harmed(full)
    assert (code, told(message, "parse").failure.exit_code) == (73, 73)  # type: ignore[union-attr]


def test_a_message_of_before_does_not_stay(place: Path, harmed: Any) -> None:
    (place / "termination-log").write_text('{"stage": "parse", "attempt": 0, "result": {}}')

    def killed() -> None:
        assert (place / "termination-log").read_bytes() == b""

    with pytest.raises(TypeError):  # parse gives nothing back
        harmed(killed)


def test_a_log_that_cannot_be_written_changes_nothing_else(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    missing = place / "none" / "termination-log"
    assert run_main("run", place / "cycle.json", "--only", "parse", "--termination-log", missing) == 0
    assert f"note: {missing} cannot be written: No such file" in capfd.readouterr().err


STOPPED = """
import os, signal, time
import jobs.stages.parse
from jobs.cli import main
def run(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
jobs.stages.parse.run = run
main()
"""


@pytest.mark.parametrize("as_process_1", [False, True])
def test_told_to_stop(place: Path, as_process_1: bool) -> None:
    """Process 1 of a container has no handlers but its own: a signal that it does not handle is lost."""
    of_its_own = ["unshare", "--fork", "--pid", "--kill-child"] if as_process_1 else []
    if as_process_1:
        can = subprocess.run([*of_its_own, "true"], capture_output=True, check=False).returncode == 0
        require(can, "no process may be made the first of its own here")
    log = place / "termination-log"
    command = ["run", "cycle.json", "--only", "parse", "--termination-log", log]
    done = subprocess.run([*of_its_own, sys.executable, "-c", STOPPED, *command], cwd=place, check=False, timeout=120)
    assert done.returncode == 143
    failure = told(log.read_bytes(), "parse").failure
    assert failure is not None
    assert (failure.kind, failure.exit_code, failure.what) == ("StoppedError", 143, "told to stop")


def test_who_takes_part_in_training_tells_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "termination-log").write_text("the first one's")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("jobs.cli.run.take_part", lambda _device: None)
    assert only(place, "train") == (0, b"the first one's")


def test_a_result_once_more(place: Path, store: FolderStore, capfd: pytest.CaptureFixture[str]) -> None:
    log = place / "asked"
    flags = ("--termination-log", log)
    assert run_main("result", "split", place / "cycle.json", *flags) == 66
    only(place, "parse")
    capfd.readouterr()
    assert run_main("result", "split", place / "cycle.json", *flags) == 66
    assert "split of cycle w1 has not finished" in capfd.readouterr().err
    assert told(log.read_bytes(), "split").failure.exit_code == 66  # type: ignore[union-attr]
    _, message = only(place, "split")
    capfd.readouterr()
    assert run_main("result", "split", place / "cycle.json", *flags) == 0
    assert log.read_bytes() == message
    assert json.loads(capfd.readouterr().out) == told(message, "split").result
    store.put(marker_key("w1", "train", 1), b'{"result": {"num_steps": 7}}')
    assert run_main("result", "train", place / "cycle.json", "--attempt", "1", *flags) == 0
    assert told(log.read_bytes(), "train", 1).result == {"num_steps": 7}
    assert run_main("result", "train", place / "cycle.json", "--store", store.url) == 66
    assert "attempt" not in capfd.readouterr().err


def test_a_result_is_asked_for_at_little_cost(place: Path) -> None:
    only(place, "parse")
    code = "import sys\nfrom jobs.cli import main\nmain()\nprint(*{'numpy', 'pyarrow', 'torch'} & set(sys.modules))"
    command = [sys.executable, "-c", code, "result", "parse", "cycle.json"]
    done = subprocess.run(command, cwd=place, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == ""


def test_a_winner_is_withheld(place: Path, store: FolderStore, capfd: pytest.CaptureFixture[str]) -> None:
    put_decision(store, "w1", decided("Promote", put_adapter(store, "w1", "step_4", place)))
    session = Session(cycle_of(place), store.url, lambda _line: None, withhold="NotReady: no pod has answered")
    session.run_only(Step("promote"))
    assert session.result is not None
    assert (session.result["outcome"], session.result["reason"]) == ("NotPromoted", "NotReady")
    assert list(records(store)) == []
    code, message = only(place, "promote", "--withhold", "NotReady: once more")
    assert (code, told(message, "promote").result["message"]) == (0, "no pod has answered")  # type: ignore[index]


@pytest.mark.parametrize("ended", [True, False])
def test_what_is_promoted_cannot_be_withheld(place: Path, store: FolderStore, ended: bool) -> None:
    put_decision(store, "w1", decided("Promote", put_adapter(store, "w1", "step_4", place)))
    code, message = only(place, "promote")
    assert code == 0
    if ended:  # and that is all that was kept of it
        entry = {"name": "promote", "attempt": 0, "result": told(message, "promote").result}
        store.put(finished_key("w1"), json.dumps({"state": "Promoted", "message": "", "stages": [entry]}).encode())
        store.delete(marker_key("w1", "promote"))
    code, message = only(place, "promote", "--withhold", "NotReady: too late")
    failure = told(message, "promote").failure
    assert code == ConfigError.exit_code
    assert failure is not None
    assert "has been promoted" in failure.what
    assert len(list(records(store))) == 1


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (("--withhold", "A: b"), "--withhold is for --only promote"),
        (("--only", "select", "--withhold", "A: b"), "--withhold is for --only promote"),
        (("--termination-log", "log"), "--termination-log is for --only"),
    ],
)
def test_flags_that_make_no_sense(
    place: Path, capfd: pytest.CaptureFixture[str], flags: tuple[str, ...], what: str
) -> None:
    assert run_main("run", place / "cycle.json", *flags) == 2
    assert what in capfd.readouterr().err


def test_the_owner_comes_from_the_environment(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFRAIN_OWNER", "cluster/mail")
    assert only(place, "parse")[0] == 0
    assert run_main("run", place / "cycle.json") == ConfigError.exit_code, "a whole run is nobody's"
    monkeypatch.setenv("REFRAIN_OWNER", "cluster/other")
    code, message = only(place, "split")
    assert code == ConfigError.exit_code
    assert "belongs to cluster/mail" in told(message, "split").failure.what  # type: ignore[union-attr]
    assert only(place, "split", "--take-over")[0] == 0
