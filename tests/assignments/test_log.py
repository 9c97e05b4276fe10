"""Committing to the log: on every store, by one writer and by many, undisturbed and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import logwriting
import pytest
from logwriting import PARAMETERS, commit, contents, import_windows, row, thread_id, window_rows
from servers import proxy as fault

from jobs.assignments import checkpoint
from jobs.assignments.archive import Archive
from jobs.assignments.segment import Draft, Head
from jobs.assignments.verify import verify
from jobs.contracts.artifacts import segment_key
from jobs.contracts.errors import ConfigError, InputError, IntegrityError

if TYPE_CHECKING:
    from servers.proxy import FaultProxy
    from servers.stores import NewStore

NUM_WRITERS = 100
NUM_WINDOWS = 2
NUM_WRITES = 2 * NUM_WINDOWS + 1
"""A data file and a segment a window, and the checkpoint."""


def test_an_empty_log(new_store: NewStore) -> None:
    archive = Archive.open(new_store())
    assert archive.log.head() == Head(-1, "")
    assert list(archive.log.segments()) == []
    assert archive.log.parameters() is None
    assert archive.log.append(lambda _: None) is None
    assert archive.log.head().seq == -1


def test_commits_are_chained(new_store: NewStore) -> None:
    url = new_store()
    archive = Archive.open(url)
    for window_idx in range(4):
        commit(archive, window_rows(window_idx), window_idx)
    other = Archive.open(url, read_only=True)
    segments = list(other.log.segments())
    assert [segment.rows() for segment in segments] == [window_rows(window_idx) for window_idx in range(4)]
    assert [segment.header.prev_sha256 for segment in segments] == ["", *(s.sha256 for s in segments[:-1])]
    assert other.log.head() == archive.log.head() == segments[-1].head
    assert [s.header.seq for s in other.log.segments(after=segments[1].head)] == [2, 3]
    assert [s.header.seq for s in other.log.segments(upto=1)] == [0, 1]
    assert other.log.parameters() == PARAMETERS


def test_every_writer_sees_the_others(new_store: NewStore) -> None:
    url = new_store()
    first, second = Archive.open(url), Archive.open(url)
    commit(first, window_rows(0), 0)
    assert commit(second, window_rows(1), 1).seq == 1
    assert commit(first, window_rows(2), 2).seq == 2
    assert second.log.head() == first.log.head()


def test_many_writers_lose_and_double_nothing(new_store: NewStore) -> None:
    """A hundred at once, each with a row of its own."""
    opened = Archive.open(new_store())
    barrier = threading.Barrier(NUM_WRITERS)

    def write(number: int) -> None:
        archive = Archive(opened.store)
        barrier.wait()
        commit(archive, [row(thread_id(number), 0, 0)], 0)

    with ThreadPoolExecutor(NUM_WRITERS) as pool:
        list(pool.map(write, range(NUM_WRITERS)))
    written = [r.chunk_id for segment in opened.log.segments() for r in segment.rows()]
    assert sorted(written) == sorted(f"{thread_id(number)}_window_0" for number in range(NUM_WRITERS))
    report = verify(opened)
    assert (report.problems, report.num_segments, report.num_rows) == ([], NUM_WRITERS, NUM_WRITERS)


def test_writers_of_the_same_rows_write_them_once(new_store: NewStore) -> None:
    """Each leaves out what it finds there, as `split` does."""
    opened = Archive.open(new_store())
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        archive = Archive(opened.store)
        wanted = [row(thread_id(n), 0, 0) for n in (number, number + 1, "everybody's")]

        def build(head: Head) -> Draft | None:
            there = {r.chunk_id for segment in archive.log.segments() for r in segment.rows()}
            rows = [r for r in wanted if r.chunk_id not in there]
            return Draft(rows, 0, PARAMETERS) if rows else None

        barrier.wait()
        archive.log.append(build)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    written = [r.chunk_id for segment in opened.log.segments() for r in segment.rows()]
    assert sorted(written) == sorted(f"{thread_id(n)}_window_0" for n in [*range(9), "everybody's"])


def test_build_is_asked_again_with_the_new_head(new_store: NewStore) -> None:
    url = new_store()
    archive, rival = Archive.open(url), Archive.open(url)
    heads: list[Head] = []

    def build(head: Head) -> Draft:
        heads.append(head)
        if len(heads) == 1:
            commit(rival, window_rows(0), 0)
        return Draft(window_rows(1), 1, PARAMETERS)

    header = archive.log.append(build)
    assert header is not None
    assert [head.seq for head in heads] == [-1, 0]
    assert header.seq == 1
    assert header.prev_sha256 == heads[1].sha256


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (PARAMETERS | {"seed": 43}, r"seed is 43, but the archive was begun with 42"),
        ({"seed": 42}, r"ratios is None, but the archive was begun with \[0.8, 0.1, 0.1\]"),
        (PARAMETERS | {"window_size": 10}, r"window_size is 10, but the archive was begun with None"),
    ],
)
def test_other_parameters_are_refused(new_folder: NewStore, parameters: dict[str, object], message: str) -> None:
    url = new_folder()
    commit(Archive.open(url), window_rows(0), 0)
    archive = Archive.open(url)
    with pytest.raises(ConfigError, match=message):
        commit(archive, window_rows(1), 1, parameters=parameters)
    assert archive.log.head().seq == 0


def test_equal_parameters_are_equal_whatever_their_python_types(new_folder: NewStore) -> None:
    archive = Archive.open(new_folder())
    commit(archive, window_rows(0), 0, parameters={"ratios": (0.8, 0.2), "seed": 1})
    assert commit(archive, window_rows(1), 1, parameters={"seed": 1, "ratios": (0.8, 0.2)}).seq == 1


def test_windows_do_not_go_back(new_folder: NewStore) -> None:
    archive = Archive.open(new_folder())
    commit(archive, window_rows(3), 3)
    with pytest.raises(InputError, match="window 2 cannot follow window 3"):
        commit(archive, window_rows(2), 2)


def test_a_reader_names_what_is_wrong(new_store: NewStore) -> None:
    archive = Archive.open(new_store())
    for window_idx in range(4):
        commit(archive, window_rows(window_idx), window_idx)
    good = archive.store.get(segment_key(1))
    cases = {
        good.replace(b'"train"', b'"trail"', 1): "segment 1 is damaged or was rewritten",
        good[:-1]: "segment 1 is damaged: the last line is cut short",
        b"": "segment 1 is damaged",
        archive.store.get(segment_key(2)): "segment 1 says that it is 2",
    }
    for data, message in cases.items():
        archive.store.put(segment_key(1), data)
        with pytest.raises(IntegrityError, match=message) as caught:
            list(Archive(archive.store).log.segments())
        assert caught.value.where == f"{archive.store.url}/{segment_key(1)}"
    archive.store.delete(segment_key(1))
    for use in (lambda log: list(log.segments()), lambda log: log.head()):
        with pytest.raises(IntegrityError, match="segment 1 is missing"):
            use(Archive(archive.store).log)


def test_a_segment_is_not_given_out_before_the_next_vouches_for_it(new_folder: NewStore) -> None:
    archive = Archive.open(new_folder())
    for window_idx in range(3):
        commit(archive, window_rows(window_idx), window_idx)
    archive.store.put(segment_key(1), archive.store.get(segment_key(1)).replace(b'"train"', b'"trail"'))
    given = []
    with pytest.raises(IntegrityError, match="segment 1"):
        given += [segment.header.seq for segment in Archive(archive.store).log.segments()]
    segments = Archive(archive.store).log.segments()
    assert next(segments).header.seq == 0
    with pytest.raises(IntegrityError):
        next(segments)


# Killed writers


@pytest.fixture
def undisturbed(new_folder: NewStore, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What an archive holds after an import of some windows that nothing disturbed."""
    monkeypatch.setattr(checkpoint, "SEGMENTS_BETWEEN", 2)
    archive = Archive.open(new_folder())
    import_windows(archive, NUM_WINDOWS)
    found = contents(archive)
    assert sorted(key.split("/")[0] for key in found) == [
        *["assignments"] * NUM_WINDOWS,
        "checkpoints",
        *["chunks"] * NUM_WINDOWS,
    ]
    return found


def test_a_second_run_adds_nothing(new_store: NewStore, undisturbed: dict[str, bytes]) -> None:
    url = new_store()
    for _ in range(2):
        archive = Archive.open(url)
        import_windows(archive, NUM_WINDOWS)
        assert contents(archive) == undisturbed


def _writer(url: str, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(Path(logwriting.__file__)), url, str(NUM_WINDOWS), *more]
    paths = os.pathsep.join([str(Path(logwriting.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, stderr=subprocess.PIPE)


def _finish(writer: subprocess.Popen[bytes]) -> bool:
    """Whether the writer was killed; it must have ended well if not."""
    _, errors = writer.communicate(timeout=60)
    assert writer.returncode in (0, -signal.SIGKILL), errors.decode()
    return writer.returncode != 0


@pytest.mark.parametrize("kill", [fault.kill_before, fault.kill_after])
def test_a_writer_killed_at_each_request(proxy: FaultProxy, undisturbed: dict[str, bytes], kill: fault.Harm) -> None:
    """Whichever write it dies at, the next run leaves the same objects as an undisturbed one."""
    for number in range(1, 100):
        url = f"s3://{proxy.server.make_bucket()}/archive"
        proxy.writes.clear()
        proxy.victim, proxy.harms = None, {number: kill}
        writer = _writer(url)
        proxy.victim = writer.pid
        killed = _finish(writer)
        proxy.harms = {}
        archive = Archive.open(url)
        if killed:
            assert len(proxy.writes) == number
            import_windows(archive, NUM_WINDOWS)
        assert contents(archive) == undisturbed
        if not killed:
            break
    assert number == NUM_WRITES + 1, "each was died at, then none was left"


@pytest.mark.parametrize("harm", [fault.lose_answer, fault.lose_request])
def test_a_lost_answer_to_each_request(proxy: FaultProxy, undisturbed: dict[str, bytes], harm: fault.Harm) -> None:
    for number in range(1, NUM_WRITES + 1):
        archive = Archive.open(f"s3://{proxy.server.make_bucket()}/archive")
        proxy.writes.clear()
        proxy.harms = {number: harm}
        import_windows(archive, NUM_WINDOWS)
        assert contents(archive) == undisturbed
        assert len(proxy.writes) > NUM_WRITES, "one was sent again"


def test_a_writer_killed_at_each_change_of_the_file_system(new_folder: NewStore, undisturbed: dict[str, bytes]) -> None:
    points = 0
    for number in range(1, 200):
        url = new_folder()
        killed = _finish(_writer(url, str(number)))
        points += killed
        archive = Archive.open(url)
        if killed:
            import_windows(archive, NUM_WINDOWS)
        assert contents(archive) == undisturbed
        if not killed:
            break
    assert points >= 3 * NUM_WRITES, "each of the files is opened, moved to its place, and its unfinished name removed"
