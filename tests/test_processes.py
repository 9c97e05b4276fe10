"""Sharing work among processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.contracts.errors import InputError, TransientError
from jobs.processes import num_cpus, shared, stop_noticed

_factor = 0


def start(factor: int) -> None:
    global _factor  # noqa: PLW0603 - one per process
    _factor = factor


def work(number: int) -> int:
    time.sleep(0.02 if number % 3 == 0 else 0)
    return number * _factor


def refuse(number: int) -> int:
    raise InputError(f"{number} is not what it should be", where="here")


def die(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_results_come_in_the_order_of_the_work_and_little_is_read_ahead() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(40):
            read.append(number)
            yield number

    ahead = 0
    for place, (item, result) in enumerate(shared(work, items(), workers=2, start=start, told=(7,))):
        assert (item, result) == (place, 7 * place)
        ahead = max(ahead, len(read) - place)
    assert len(read) == 40
    assert ahead <= 8


def test_what_a_worker_raises_is_raised_whole() -> None:
    with pytest.raises(InputError, match="1 is not what it should be") as caught:
        list(shared(refuse, [1, 2, 3], workers=2, start=start, told=(1,)))
    assert caught.value.where == "here"


def test_a_worker_that_is_killed_is_an_error_and_not_a_wait_for_ever() -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            list(shared(die, range(100), workers=2, start=start, told=(1,)))
        except TransientError as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert [str(error).partition("\n")[0] for error in errors] == [
        "a process was killed, perhaps because memory ran out"
    ]


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/pods/one\n", {"pods/cpu.max": "300000 100000", "pods/one/cpu.max": "max 100000"}, 3),
        ("0::/../host/path\n", {"cpu.max": "10000 100000"}, 1),
        ("4:cpu,cpuacct:/docker/x\n0::/\n", {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("4:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("nonsense\n", {"cpu.max": "x"}, 8),
        ("", {}, 8),
    ],
)
def test_cpus_are_those_that_a_container_may_use(
    own: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(text)
    assert num_cpus(tmp_path / "cgroup", tmp_path / "own") == expected


def test_the_first_ctrl_c_is_noticed_and_the_second_stops_at_once() -> None:
    said: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with stop_noticed(lambda: said.append("stops soon")) as told:
        assert list(told) == []
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGINT)
        assert (list(told), said) == ([signal.SIGHUP, signal.SIGINT], ["stops soon"])
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_what_is_ignored_as_below_nohup_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_noticed(lambda: None) as told:
            signal.raise_signal(signal.SIGHUP)
            assert list(told) == []
    finally:
        signal.signal(signal.SIGHUP, before)
