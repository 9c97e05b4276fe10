"""Cycles of one archive run one at a time: in a folder by a lock, in a bucket by a claim."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import children
import orjson
import pytest

from jobs.contracts.artifacts import owner_key
from jobs.contracts.errors import TransientError
from jobs.contracts.folder_store import LOCK
from jobs.contracts.store import Store, StoreOptions, open_store
from jobs.local.owner import Ownership, owned

if TYPE_CHECKING:
    from servers.s3 import S3Server


def own(url: str, said: list[str] | None = None, **settings: Any) -> Any:
    return owned(url, "w1", StoreOptions(), say=(said if said is not None else []).append, **settings)


def hold(url: str, ready: Any, leave: Any) -> None:
    """Own the archive until told to leave, then end as a killed process does."""
    with own(url):
        ready.set()
        leave.wait(60)
        os._exit(9)


def held(url: str) -> tuple[Any, Any]:
    """A process that owns the archive, and what makes it die."""
    ready, leave = children.forked.Event(), children.forked.Event()
    holder = children.begun(hold, url, ready, leave)
    assert ready.wait(60)
    return holder, leave


def test_one_after_another(new_store: Callable[[], str]) -> None:
    url = new_store()
    for _ in range(2):
        with own(url) as ownership:
            ownership.check()
    assert list(open_store(url).list("owner/")) == []


def test_nothing_is_left_of_a_run_that_wrote_nothing(tmp_path: Path) -> None:
    with own((tmp_path / "mistyped" / "archive").as_uri()):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_file_has_gone_is_no_lock(tmp_path: Path) -> None:
    """Who waits for a run that removes its unused archive at the end makes it again, and owns the new one."""
    url = (tmp_path / "archive").as_uri()
    order: list[str] = []

    class Said(list[str]):
        def append(self, text: str) -> None:
            order.append("waits")
            go.set()

    go = threading.Event()

    def second() -> None:
        with own(url, Said()):
            order.append("owns")
            assert (tmp_path / "archive" / LOCK).exists()

    with own(url):
        thread = threading.Thread(target=second)
        thread.start()
        assert go.wait(60)
    thread.join(60)
    assert order == ["waits", "owns"]


def test_the_second_waits_and_says_so(new_store: Callable[[], str]) -> None:
    """On one machine both kinds wait; a holder that dies leaves nothing that stops the next."""
    url = new_store()
    holder, leave = held(url)
    said: list[str] = []

    class Said(list):
        def append(self, text: str) -> None:
            super().append(text)
            leave.set()  # only now that the second is known to wait

    said = Said()
    with own(url, said) as ownership:
        ownership.check()
        assert holder.join(60) is None
        assert holder.exitcode == 9
    assert said == ["another run has this archive: waiting for it to end"]
    assert list(open_store(url).list("owner/")) == []


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    return f"s3://{s3_server.make_bucket()}/archive"


@pytest.fixture
def elsewhere(bucket: str) -> Store:
    """The archive, claimed by a machine that is not this one."""
    store = open_store(bucket)
    store.put(owner_key(3), orjson.dumps({"cycle": "w0", "host": "far", "pid": 7, "machine": "other", "seq": 3}))
    return store


def test_a_run_on_another_machine_is_not_disturbed(bucket: str, elsewhere: Store) -> None:
    before = elsewhere.get(owner_key(3))
    with (
        pytest.raises(TransientError, match="cycle w0 of this archive is run by process 7 on far") as refused,
        own(bucket),
    ):
        pass
    assert "--take-over" in refused.value.hint
    assert list(elsewhere.list("owner/")) == [owner_key(3)]
    assert elsewhere.get(owner_key(3)) == before


def test_a_dead_one_elsewhere_is_taken_over(bucket: str, elsewhere: Store) -> None:
    with own(bucket, take_over=True) as ownership:
        ownership.check()
        assert list(elsewhere.list("owner/")) == [owner_key(4)]
    assert list(elsewhere.list("owner/")) == []


def test_a_run_that_was_taken_over_does_not_go_on(bucket: str) -> None:
    store = open_store(bucket)
    with own(bucket) as ownership:
        store.put(owner_key(2), orjson.dumps({"cycle": "w9", "host": "far", "pid": 7, "machine": "other", "seq": 2}))
        with pytest.raises(TransientError, match="taken the archive over"):
            ownership.check()
    assert list(store.list("owner/")) == [owner_key(2)], "the other's claim is left alone"


def test_another_claim_under_the_same_number_is_another(bucket: str) -> None:
    """Whoever took over has ended, and numbers have begun anew with a third run."""
    store = open_store(bucket)
    with own(bucket) as ownership:
        third = orjson.loads(store.get(owner_key(1))) | {"cycle": "w9", "host": "far", "machine": "x", "run": "other"}
        store.put(owner_key(1), orjson.dumps(third))
        with pytest.raises(TransientError, match="taken the archive over"):
            ownership.check()
    assert orjson.loads(store.get(owner_key(1))) == third, "the other's claim is left alone"


def test_a_claim_that_is_gone_stops_the_run(bucket: str) -> None:
    store = open_store(bucket)
    with own(bucket) as ownership:
        store.delete(owner_key(1))
        with pytest.raises(TransientError, match="claim is gone"):
            ownership.check()


def _take(url: str, folder: Path, start: Any, results: Any) -> None:
    """Take the archive over, as if on a machine of its own: with its own folder for lock files."""
    folder.mkdir()
    tempfile.tempdir = str(folder)
    start.wait(60)
    try:
        with own(url, take_over=True) as ownership:
            start.wait(60)
            results.put(_checked(ownership))
            start.wait(60)
    except TransientError:
        start.wait(60)
        results.put("refused")
        start.wait(60)


def test_of_many_that_take_over_at_once_one_wins(bucket: str, elsewhere: Store, tmp_path: Path) -> None:
    start, results = children.forked.Barrier(6), children.forked.Queue()
    takers = [children.begun(_take, bucket, tmp_path / str(number), start, results) for number in range(6)]
    found = [results.get(timeout=60) for _ in takers]
    for taker in takers:
        children.ended(taker)
    assert found.count("owner") == 1, found


def _checked(ownership: Ownership) -> str:
    try:
        ownership.check()
    except TransientError:
        return "stopped"
    return "owner"
