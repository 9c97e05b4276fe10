"""The split stage when writers die, race or lose answers: the archive is what an undisturbed one is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import children
import pytest
from children import run_as_victim
from servers.proxy import kill_after, lose_answer
from splitting import mail, rows, split, write

from jobs.assignments.archive import Archive
from jobs.assignments.verify import verify

if TYPE_CHECKING:
    from servers.proxy import FaultProxy
    from servers.s3 import S3Server

    from jobs.contracts.store import Store

MAILS = [
    mail("a@x", day="2024-01-02"),
    mail("b@x", day="2024-01-03", references=("a@x",)),
    mail("c@x", day="2024-01-10", references=("b@x",)),
    mail("d@x", day="2024-01-11"),
]
SETTINGS: dict[str, Any] = {"window_period": "week", "window_overlap": 1, "workers": 1}


def contents(url: str) -> dict[str, bytes]:
    store = Archive.open(url, read_only=True).store
    return {key: store.get(key) for key in store.list()}


def import_all(url: str, source: Path) -> None:
    split(Archive.open(url), source, source.parent, cycle="w1", **SETTINGS)


@pytest.mark.slow
@pytest.mark.parametrize("s3_server", ["minio"], indirect=True)
def test_a_split_killed_at_any_write_and_run_again(proxy: FaultProxy, s3_server: S3Server, tmp_path: Path) -> None:
    source = write(tmp_path / "messages.jsonl", MAILS)
    undisturbed = f"s3://{s3_server.make_bucket()}/archive"
    assert run_as_victim(proxy, import_all, undisturbed, source) == 0
    num_writes = len(proxy.writes)
    segments = [number for number, line in enumerate(proxy.writes, 1) if "/assignments/" in line]
    assert len(segments) == 2
    expected = contents(undisturbed)
    # To die before a write is to die after the one before it.
    for number in range(1, num_writes + 1):
        url = f"s3://{s3_server.make_bucket()}/archive"
        proxy.harms = {number: kill_after}
        assert run_as_victim(proxy, import_all, url, source) == -9, number
        proxy.harms = {}
        assert run_as_victim(proxy, import_all, url, source) == 0
        assert contents(url) == expected, number


@pytest.mark.parametrize("s3_server", ["minio"], indirect=True)
def test_lost_answers_change_nothing(proxy: FaultProxy, s3_server: S3Server, tmp_path: Path) -> None:
    source = write(tmp_path / "messages.jsonl", MAILS)
    undisturbed, disturbed = (f"s3://{s3_server.make_bucket()}/archive" for _ in range(2))
    import_all(undisturbed, source)
    lost: set[str] = set()

    def lose_each_once(proxy: FaultProxy, request: Any) -> Any:
        if "/assignments/" in request.path and request.path not in lost:
            lost.add(request.path)
            return lose_answer(proxy, request)
        return proxy.forward(request)

    proxy.every_write = lose_each_once
    import_all(disturbed, source)
    assert len(lost) == 2
    assert contents(disturbed) == contents(undisturbed)


def _import_own(url: str, folder: Path, number: int) -> None:
    mails = [mail(f"{number}.{one}@x", hour=one) for one in range(3)]
    source = write(folder / f"messages-{number}.jsonl", mails)
    split(Archive.open(url), source, folder, cycle=f"writer-{number}", **SETTINGS)


def test_writers_at_once_lose_nothing_and_double_nothing(new_store: Callable[[], str], tmp_path: Path) -> None:
    url = new_store()
    writers = [children.begun(_import_own, url, tmp_path, number) for number in range(6)]
    assert [children.ended(writer, 120) for writer in writers] == [0] * 6
    archive = Archive.open(url, read_only=True)
    assert verify(archive, deep=True).problems == []
    assert sorted(len(row.messages) for row in rows(archive)) == [1] * 18
    assert len({row.thread_id for row in rows(archive)}) == 18
    assert sorted({row.window_idx for row in rows(archive)}) == list(range(6))


def test_a_folder_and_a_bucket_hold_the_same_bytes(new_store: Callable[[], str], tmp_path: Path) -> None:
    source = write(tmp_path / "messages.jsonl", MAILS)
    import_all((tmp_path / "folder").as_uri(), source)
    url = new_store()
    import_all(url, source)
    assert contents(url) == contents((tmp_path / "folder").as_uri())
    assert len(contents(url)) >= 8


class Interrupting:
    """A store that calls somebody in between: behind the so manieth call of one of its methods."""

    def __init__(self, store: Store, at: int, act: Callable[[], object]) -> None:
        self.url = store.url
        self.num_calls = 0
        self._store, self._at, self._act = store, at, act

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)

        def call(*args: Any, **settings: Any) -> Any:
            result = method(*args, **settings)
            result = iter(list(result)) if name == "list" else result  # it is answered now, not when it is looked at
            self.num_calls += 1
            if self.num_calls == self._at:
                self._act()
            return result

        return call


@pytest.mark.parametrize(("is_first", "least_calls"), [(True, 30), (False, 12)], ids=["first import", "later import"])
def test_another_writer_between_any_two_calls_to_the_store(tmp_path: Path, *, is_first: bool, least_calls: int) -> None:
    ours = write(tmp_path / "ours.jsonl", [*MAILS, mail("j@x", day="2024-01-17", references=("p@x", "a@x"))])
    theirs = write(
        tmp_path / "theirs.jsonl",
        [
            mail("p@x", day="2024-01-02"),
            mail("q@x", day="2024-01-09", references=("a@x",)),
            mail("r@x", day="2024-01-16", references=("p@x", "q@x")),
        ],
    )
    at, num_calls = 0, 0
    while at <= num_calls:
        at += 1
        url = (tmp_path / f"archive-{at}").as_uri()
        other = Archive.open(url)
        if not is_first:
            split(other, [mail("z@x", day="2023-01-02")], tmp_path, **SETTINGS)
        act = functools.partial(split, other, theirs, tmp_path, cycle="theirs", **SETTINGS)
        store = Interrupting(Archive.open(url).store, at, act)
        split(Archive(cast("Store", store)), ours, tmp_path, cycle="ours", **SETTINGS)
        num_calls = store.num_calls
        archive = Archive.open(url, read_only=True)
        windows = [header.window_idx for header in archive.headers()]
        assert windows == list(range(len(windows))), at
        assert verify(archive, deep=True).problems == [], at
        num_mails = sum(len(row.messages) for row in rows(archive))
        assert num_mails == 5 + (3 if at <= num_calls else 0) + (not is_first), at
    assert num_calls > least_calls
