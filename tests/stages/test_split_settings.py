"""Settings of an archive that is split again, and cycles that run again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from splitting import mail, split, tree

from jobs.assignments.archive import Archive
from jobs.contracts.errors import ConfigError
from jobs.intake.placing import whole_ratios


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("seed", 7, "--seed is 7, but the archive was begun with 42"),
        ("ratios", (70, 20, 10), "--ratios is 70:20:10, but the archive was begun with 80:10:10"),
        ("max_tokens", 64, "--max-tokens is 64, but the archive was begun with 2048"),
    ],
)
def test_other_settings_than_the_archive_s_are_refused(
    archive: Archive, tmp_path: Path, setting: str, value: object, words: str
) -> None:
    split(archive, [mail("a@x")], tmp_path)
    before = tree(tmp_path / "archive")
    with pytest.raises(ConfigError) as error:
        split(archive, [mail("b@x")], tmp_path, **{setting: value})
    assert words in str(error.value)
    assert tree(tmp_path / "archive") == before


def test_settings_left_out_are_the_archive_s(archive: Archive, tmp_path: Path) -> None:
    split(archive, [mail("a@x")], tmp_path, seed=7, ratios=(60, 20, 20))
    split(archive, [mail("b@x")], tmp_path)
    parameters = [header.parameters for header in archive.log.headers()]
    assert parameters[0] == parameters[1]
    assert (parameters[1]["seed"], parameters[1]["ratios"]) == (7, [60, 20, 20])


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (("8", "1", "1"), (80, 10, 10)), (("0.8", "0.1", "0.1"), (80, 10, 10)), ((80.0, 10.0, 10.0), (80, 10, 10)),
        ((1, 1, 1), (1, 1, 1)), (("0.805", "0.1", "0.095"), (161, 20, 19)), ((1, 0, 0), (100, 0, 0)),
    ],
)  # fmt: skip
def test_ratios_are_one_however_they_are_written(written: tuple[str, str, str], meant: tuple[int, int, int]) -> None:
    assert whole_ratios(written) == meant


@pytest.mark.parametrize(
    "written", [("80", "10"), ("a", "b", "c"), (-1, 1, 1), (0, 1, 1), (float("nan"), 1, 1), ("1/0", 1, 1)]
)
def test_ratios_that_are_none(written: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="not shares of train, val and test"):
        whole_ratios(written)


def test_mail_is_added_only_when_asked(archive: Archive, tmp_path: Path) -> None:
    split(archive, [mail("a@x")], tmp_path, incremental=False)
    split(archive, [mail("a@x")], tmp_path, incremental=False)  # nothing new: nothing to refuse
    with pytest.raises(ConfigError, match="--incremental"):
        split(archive, [mail("b@x")], tmp_path, incremental=False)


def test_a_cycle_that_runs_again_finds_its_window(archive: Archive, tmp_path: Path) -> None:
    first = split(archive, [mail("a@x")], tmp_path, cycle="w1")
    split(archive, [mail("b@x")], tmp_path, cycle="w2")
    assert split(archive, [mail("a@x")], tmp_path, cycle="w1") == first
    assert first["window_idx"] == 0


def test_it_tells_the_log_s_head_behind_its_own_commits(archive: Archive, tmp_path: Path) -> None:
    """Whatever others commit, before it is run again or in between: a restarted split tells what it told."""
    assert split(archive, [], tmp_path)["log"] is None
    mails = [mail("a@x", day="2024-01-02"), mail("b@x", day="2024-01-09")]
    first = split(archive, mails, tmp_path, cycle="w1", window_period="week")
    assert first["log"] == asdict(archive.log.head())
    assert first["log"]["seq"] == 1
    second = split(archive, [mail("c@x", day="2024-01-16")], tmp_path, cycle="w2")
    assert second["log"] == asdict(archive.log.head())
    assert split(Archive(archive.store), mails, tmp_path, cycle="w1")["log"] == first["log"]
    assert split(Archive(archive.store), mails, tmp_path, cycle="w3")["log"] == second["log"], "nothing new: the newest"
