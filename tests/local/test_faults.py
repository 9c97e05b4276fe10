"""`refrain run` killed at each of its writes, and run again: the archive is what an undisturbed run leaves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from children import run_as_victim
from local.cycles import WEEKS, cycle_of, workplace
from local.killing import contents, die_behind, num_writes, run_cycle
from servers.proxy import kill_after

from jobs.contracts.cycle import RetrainCycle
from jobs.local.configs import Machine
from jobs.local.session import Session

if TYPE_CHECKING:
    from servers.proxy import FaultProxy
    from servers.s3 import S3Server


@pytest.fixture
def cycle(tmp_path: Path) -> RetrainCycle:
    return cycle_of(workplace(tmp_path / "place", weeks=WEEKS[:2], num_mails=6))


def archive(folder: Path, name: str) -> str:
    return (folder / name).as_uri()


@pytest.mark.slow
def test_the_data_half_killed_behind_each_write(cycle: RetrainCycle, tmp_path: Path) -> None:
    undisturbed = archive(tmp_path, "undisturbed")
    writes = num_writes(cycle, undisturbed, until="sample")
    markers = [write for write in writes if write.startswith("put cycles/w1/") and write.endswith("/_SUCCESS.json")]
    assert len(markers) == 5
    assert sum(" assignments/" in write for write in writes) == 2
    expected = contents(undisturbed)
    for number in range(1, len(writes) + 1):
        url = archive(tmp_path, f"killed-{number}")
        assert run_cycle(cycle, url, die_behind(number), until="sample") == -9, writes[number - 1]
        assert run_cycle(cycle, url, until="sample") == 0
        assert contents(url) == expected, writes[number - 1]


def test_a_skipped_cycle_killed_behind_each_write(tmp_path: Path) -> None:
    cycle = cycle_of(workplace(tmp_path / "place", num_mails=2), window={"minNewMessages": 99})
    undisturbed = archive(tmp_path, "undisturbed")
    writes = num_writes(cycle, undisturbed)
    expected = contents(undisturbed)
    assert writes[-1] == "put cycles/w1/finished.json"
    for number in range(len(writes) - 3, len(writes) + 1):
        url = archive(tmp_path, f"killed-{number}")
        assert run_cycle(cycle, url, die_behind(number)) == -9, writes[number - 1]
        assert run_cycle(cycle, url) == 0
        assert contents(url) == expected, writes[number - 1]


def _run(cycle: RetrainCycle, url: str) -> None:
    Session(cycle, url, lambda _line: None, Machine(workers=1)).run(until="sample")


@pytest.mark.slow
@pytest.mark.parametrize("s3_server", ["minio"], indirect=True)
def test_a_run_over_s3_killed_and_run_again(proxy: FaultProxy, s3_server: S3Server, cycle: RetrainCycle) -> None:
    """Behind its claim, a data file, a segment, a marker, and the claim's end; a folder's test has each write."""
    undisturbed = f"s3://{s3_server.make_bucket()}/archive"
    assert run_as_victim(proxy, _run, cycle, undisturbed) == 0
    writes = list(proxy.writes)
    expected = contents(undisturbed)
    chosen = [
        number
        for kind in ("/owner/", "/chunks/", "/assignments/", "/window/_SUCCESS.json")
        for number in [one for one, write in enumerate(writes, 1) if kind in write][-2:]
    ]
    assert len(chosen) == 8, "a marker is deleted before its stage runs"
    for number in chosen:
        url = f"s3://{s3_server.make_bucket()}/archive"
        proxy.harms = {number: kill_after}
        assert run_as_victim(proxy, _run, cycle, url) == -9, writes[number - 1]
        proxy.harms = {}
        assert run_as_victim(proxy, _run, cycle, url) == 0
        assert contents(url) == expected, writes[number - 1]
