"""`refrain split` as users call it."""

from __future__ import annotations

from pathlib import Path

import pytest
from splitting import mail, threads_by_split, write

from jobs.cli import main
from jobs.contracts.records import short_digest
from jobs.intake.placing import thread_id_of
from jobs.runner import run_in_store
from jobs.stages.parse import Config


def refrain(*args: object) -> int:
    """The exit code of `refrain args…`."""
    try:
        return int(main([str(arg) for arg in args]))
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REFRAIN_STORE", raising=False)
    return tmp_path


def test_the_same_mail_again_says_that_nothing_was_added(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(folder / "mail.jsonl", [mail("a@x"), mail("b@x")])
    assert refrain("split", "-i", "mail.jsonl", "--workers", 1) == 0
    assert "nothing was added" not in capfd.readouterr().err
    assert refrain("split", "-i", "mail.jsonl", "--workers", 1) == 0
    told = capfd.readouterr().err.splitlines()
    assert "nothing was added" in told[0]
    assert "1 new window; the newest window_idx is 0" in told


def test_other_settings_are_told_by_their_flags(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(folder / "mail.jsonl", [mail("a@x")])
    assert refrain("split", "mail.jsonl") == 0
    for flags, told in {
        ("--window-size", 7): "--window-size is 7, but the archive was begun with no limit",
        ("--ratios", "1:1:1"): "--ratios is 1:1:1, but the archive was begun with 80:10:10",
        ("--keep", "footers"): "--keep is footers, but the archive was begun with nothing",
    }.items():
        assert refrain("split", "mail.jsonl", "--incremental", *flags) == 78
        assert told in capfd.readouterr().err


def test_show_by_digest_and_by_thread(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(folder / "mail.jsonl", [mail("a@x"), mail("b@x", references=("a@x",)), mail("z@x")])
    assert refrain("split", "mail.jsonl") == 0
    capfd.readouterr()
    assert refrain("show", "a@x") == 0
    shown = capfd.readouterr().out
    assert refrain("show", short_digest("a@x")) == 0
    assert capfd.readouterr().out == shown
    thread = thread_id_of("a@x")
    assert refrain("show", thread) == 0
    rows = [line.split(maxsplit=1) for line in capfd.readouterr().out.splitlines()]
    assert [value for name, value in rows if name == "message"] == ["a@x", "b@x"]
    assert [value for name, value in rows if name == "chunk"] == [f"{thread}_window_0 of window 0"]
    assert refrain("show", thread[:-1]) == refrain("show", "0" * 32) == 66


def test_show_says_how_much_of_a_mail_stands_in_train_mail(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    roots, text = threads_by_split(), " ".join(map(str, range(60)))
    train, val = roots["train"][0], roots["val"][0]
    write(folder / "mail.jsonl", [mail(train, body=text + " and more"), mail(val, body=text)])
    assert refrain("split", "mail.jsonl") == refrain("show", val) == 0
    told = f"out of the scores from window 0: 100% of it stands in a train message ({short_digest(train)})"
    assert told in capfd.readouterr().out


def test_more_mail_needs_to_be_said(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(folder / "1.jsonl", [mail("a@x")])
    write(folder / "2.jsonl", [mail("b@x")])
    refrain("split", "-i", "1.jsonl")
    assert refrain("split", "-i", "2.jsonl") == 78
    assert "say --incremental" in capfd.readouterr().err
    assert refrain("split", "-i", "2.jsonl", "--incremental") == 0


def test_cycles_in_a_store_always_add(folder: Path) -> None:
    url = (folder / "store").as_uri()
    for name in ("a", "b"):
        (folder / name).write_text(mail(f"{name}@x")["email_message"])
        run_in_store("parse", Config((name,), workers=1), url=url, cycle=name)
        assert refrain("split", "--store", url, "--cycle", name) == 0


@pytest.mark.parametrize("flag", ["--assignments", "--output", "--input", "--shard-size"])
def test_a_store_and_files_exclude_each_other(flag: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert refrain("split", "--store", "./store", flag, "1") == 2
    assert f"and {flag} are given" in capfd.readouterr().err


def test_a_file_that_is_not_there_leaves_nothing_behind(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert refrain("split", "-i", "none.jsonl") == 66
    assert "none.jsonl: no such file" in capfd.readouterr().err
    assert list(folder.iterdir()) == []
