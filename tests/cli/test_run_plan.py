"""`refrain run` and `refrain plan` as commands: what they print where, and how they end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from local.cycles import WEEKS, workplace, write_cycle

from jobs.cli import main

if TYPE_CHECKING:
    from conftest import Refrain


def run_main(*args: object) -> int:
    try:
        return int(main([str(arg) for arg in args]))
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = workplace(tmp_path / "place", weeks=WEEKS[:2])
    write_cycle(place / "cycle.yaml")
    return place


def test_lines_go_to_standard_error_and_json_to_standard_output(place: Path, refrain: Refrain, tmp_path: Path) -> None:
    done = refrain("run", place / "cycle.yaml", "--until", "sample", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert (status["state"], status["stage"], status["windowIdx"]) == ("Running", "train", 1)
    told = [line for line in done.stderr.splitlines() if not line.startswith(" ")]
    assert [line.split()[0] for line in told[:5]] == ["parse", "split", "window", "rehearse", "sample"]
    assert "  note: 2 windows are new; only the newest, with " in done.stderr
    assert "window        window 1: " in done.stderr
    assert (place / "store" / "workshop" / "cycles" / "w1").is_dir(), "paths are meant from the file"
    again = refrain("run", place / "cycle.yaml", "--until", "sample")
    assert again.returncode == 0
    assert again.stdout == ""
    assert again.stderr.count("  had finished: ") == 5


def test_a_failure_says_what_and_the_status_says_failed(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "mail.mbox").unlink()
    assert run_main("run", place / "cycle.yaml", "--json") == 66
    told = capfd.readouterr()
    status = json.loads(told.out)
    assert (status["state"], status["stage"], status["stages"]) == ("Failed", "parse", [])
    assert "mail.mbox" in status["message"]
    assert "refrain: error: " in told.err
    assert not (place / "store").exists(), "a run that wrote nothing leaves nothing"


def test_a_process_that_trains_along_learns_where_the_cycle_s_s3_service_is(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cycle(place / "cycle.yaml", store={"url": "s3://bucket", "endpoint": "http://minio:9000"})
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is taken back
        monkeypatch.delenv(name)
    monkeypatch.setenv("RANK", "1")
    told: list[str | None] = []
    monkeypatch.setattr("jobs.cli.run.take_part", lambda _device: told.append(os.environ.get("AWS_ENDPOINT_URL")))
    assert run_main("run", place / "cycle.yaml", "--only", "train") == 0
    assert told == ["http://minio:9000"]


@pytest.mark.parametrize("command", [("plan",), ("run",), ("run", "--only", "split")])
def test_a_base_model_that_is_not_there_is_told_before_anything_is_done(
    place: Path, capfd: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    write_cycle(place / "cycle.yaml", model={"base": "./absent"})
    assert run_main(*command, place / "cycle.yaml") == 66
    told = capfd.readouterr().err
    assert f"{place / 'cycle.yaml'}: spec.model.base: there is no folder {place / 'absent'}\n  put the base" in told
    assert "parse" not in told
    assert not (place / "store").exists()


def test_too_little_mail_ends_well(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_cycle(place / "cycle.yaml", window={"minNewMessages": 99})
    for expected in ("w1: Skipped: ", "w1 has finished: Skipped: "):
        assert run_main("run", place / "cycle.yaml") == 0
        assert expected in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (("--only", "train", "--until", "train"), "both --only and --until"),
        (("--attempt", "1"), "--attempt is for --only"),
        (("--store", "mistyped"), "not a store: mistyped"),
        (("--until", "nothing"), "--until"),
    ],
)
def test_flags_that_contradict_each_other(
    place: Path, capfd: pytest.CaptureFixture[str], flags: tuple[str, ...], what: str
) -> None:
    assert run_main("run", place / "cycle.yaml", *flags) == 2
    assert what in capfd.readouterr().err


def test_the_archive_may_be_named_on_the_command_line(place: Path, tmp_path: Path) -> None:
    url = (tmp_path / "elsewhere").as_uri()
    assert run_main("run", place / "cycle.yaml", "--store", url, "--until", "parse") == 0
    assert (tmp_path / "elsewhere" / "cycles" / "w1" / "parse").is_dir()
    assert not (place / "store").exists()


def test_the_environment_s_store_is_not_taken_for_the_cycle_s(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFRAIN_STORE", (tmp_path / "other").as_uri())
    assert run_main("run", place / "cycle.yaml", "--until", "parse") == 0
    assert not (tmp_path / "other").exists()


def test_from_standard_input_paths_are_meant_from_here(place: Path, refrain: Refrain) -> None:
    file = (place / "cycle.yaml").read_text()
    done = refrain("run", "-", "--until", "parse", cwd=place, input=file)
    assert done.returncode == 0, done.stderr
    assert (place / "store" / "workshop" / "cycles" / "w1" / "parse").is_dir()


def test_one_stage_alone(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_main("run", place / "cycle.yaml", "--only", "split") == 66
    assert "no such folder" in capfd.readouterr().err
    for stage in ("parse", "split", "window"):
        assert run_main("run", place / "cycle.yaml", "--only", stage) == 0
    assert "w1: next is rehearse" in capfd.readouterr().err


def test_a_plan_as_text_and_as_json(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_main("plan", place / "cycle.yaml", "--tokens-per-second", "10") == 0
    text = capfd.readouterr().out
    for heading in ("cycle ", "state ", "mail ", "window ", "training ", "time ", "disk ", "not known "):
        assert f"\n{heading}" in f"\n{text}", heading
    assert "deadline" not in text
    assert run_main("plan", place / "cycle.yaml", "--jobs") == 0
    assert "\njobs       stage     image  device  pods  deadline, on a cluster\n" in capfd.readouterr().out
    assert run_main("plan", place / "cycle.yaml", "--json") == 0
    plan = json.loads(capfd.readouterr().out)
    assert plan["mail"]["num_kept"] == 24
    assert plan["training"]["seconds"] is None
    assert sorted(path.name for path in place.iterdir()) == ["base", "cycle.yaml", "mail.mbox"]


def test_a_folder_in_place_of_a_file(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for command in ("plan", "run"):
        assert run_main(command, place) == 78
        assert f"{place}: a folder, not a file\n  name a file in it: cycle.yaml" in capfd.readouterr().err


def test_on_a_terminal_a_stage_is_named_when_it_begins(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert run_main("run", place / "cycle.yaml", "--until", "parse", "--workers", "1") == 0
    assert capfd.readouterr().err.startswith("parse …\r")


def test_a_plan_of_a_file_that_is_wrong(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "cycle.yaml").write_text("kind: Nonsense\n")
    for command in ("plan", "run"):
        assert run_main(command, place / "cycle.yaml") == 78
        assert "cycle.yaml, line 1" in capfd.readouterr().err
