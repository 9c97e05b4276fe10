from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logwriting import PARAMETERS, commit, import_windows, row, thread_id, window_rows

from jobs.assignments import checkpoint
from jobs.assignments.archive import Archive
from jobs.assignments.checkpoint_form import Snapshot, same_beginning
from jobs.contracts.artifacts import checkpoint_key, segment_key
from jobs.contracts.errors import IntegrityError
from jobs.contracts.folder_store import FolderStore

if TYPE_CHECKING:
    from pathlib import Path

    from servers.stores import NewStore

NUM_WINDOWS = 70


class CountingStore(FolderStore):
    """A folder store that counts what is read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: Counter[str] = Counter()

    def get(self, key: str) -> bytes:
        self.reads[key.split("/", maxsplit=1)[0]] += 1
        return super().get(key)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """An archive of 70 windows, a third of the threads with ids that are not ours, without checkpoints."""
    archive = Archive(CountingStore(tmp_path / "archive"))
    for window_idx in range(NUM_WINDOWS):
        foreign = row(f"foreign {window_idx % 7}", window_idx // 7, window_idx)
        odd = row("odd", 0, window_idx, "val")
        odd.chunk_id = f"odd chunk {window_idx}"
        commit(archive, [*window_rows(window_idx), foreign, odd], window_idx)
    return archive


def whole(archive: Archive) -> Snapshot:
    """The log read from its segments alone."""
    snapshot = Snapshot(Archive(archive.store).log.head(), [], checkpoint.LogTable(digests=True))
    snapshot.head = type(snapshot.head)()
    checkpoint.extend(snapshot, Archive(archive.store).log)
    return snapshot


def assert_same(one: Snapshot, other: Snapshot) -> None:
    assert one.head == other.head
    assert same_beginning(one, other)
    assert same_beginning(other, one)
    assert one.table.num_threads == other.table.num_threads
    numbers = range(len(one.table))
    assert [one.table.chunk_id(n) for n in numbers] == [other.table.chunk_id(n) for n in numbers]


def test_a_reader_starts_at_the_newest_checkpoint(archive: Archive) -> None:
    expected = whole(archive)
    archive.write_checkpoint()
    assert list(archive.store.list("checkpoints/")) == [checkpoint_key(63)]
    store: Any = archive.store
    store.reads.clear()
    reader = Archive(store)
    assert_same(reader.snapshot(digests=True), expected)
    assert store.reads == {"assignments": NUM_WINDOWS - 64 + 1}, "those that are new, and the one it ends with"
    store.reads.clear()
    assert reader.snapshot(digests=True) is reader.snapshot()
    assert store.reads == {}
    commit(archive, window_rows(NUM_WINDOWS), NUM_WINDOWS)
    store.reads.clear()
    assert reader.snapshot().head.seq == NUM_WINDOWS
    assert store.reads == {"assignments": 1}


def test_without_digests_a_reader_has_the_same_rows(archive: Archive) -> None:
    expected = whole(archive)
    archive.write_checkpoint()
    table = Archive(archive.store).table()
    assert table.digests == {}
    assert [table.chunk_id(n) for n in range(len(table))] == [
        expected.table.chunk_id(n) for n in range(len(expected.table))
    ]


def test_a_checkpoint_is_due_every_32_segments_and_two_are_kept(new_store: NewStore) -> None:
    archive = Archive.open(new_store())
    bytes_of: dict[str, bytes] = {}
    for window_idx in range(100):
        commit(archive, window_rows(window_idx)[:1], window_idx)
        archive.write_checkpoint()
        due = [seq for seq in (31, 63, 95) if seq <= window_idx][-2:]
        assert list(archive.store.list("checkpoints/")) == [checkpoint_key(seq) for seq in due]
        bytes_of |= {checkpoint_key(seq): archive.store.get(checkpoint_key(seq)) for seq in due}
    checkpoint.write(archive.store, archive.log, 63)
    assert archive.store.get(checkpoint_key(63)) == bytes_of[checkpoint_key(63)], "equal logs give equal bytes"


@pytest.mark.parametrize("position", [0, 0.2, 0.4, 0.6, 0.8, 0.95, 0.999])
def test_a_damaged_checkpoint_is_passed_over(
    archive: Archive, caplog: pytest.LogCaptureFixture, position: float
) -> None:
    expected = whole(archive)
    checkpoint.write(archive.store, archive.log, 31)
    archive.write_checkpoint()
    data = bytearray(archive.store.get(checkpoint_key(63)))
    data[int(position * len(data))] ^= 0x10
    archive.store.put(checkpoint_key(63), bytes(data))
    with caplog.at_level(logging.WARNING):
        assert_same(Archive(archive.store).snapshot(digests=True), expected)


def test_a_flipped_byte_anywhere_is_noticed_or_harmless(archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    expected = whole(archive)
    archive.write_checkpoint()
    good = archive.store.get(checkpoint_key(63))
    passed_over = 0

    @given(at=st.integers(0, len(good) - 1), bit=st.integers(0, 7))
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def flip(at: int, bit: int) -> None:
        nonlocal passed_over
        data = bytearray(good)
        data[at] ^= 1 << bit
        archive.store.put(checkpoint_key(63), bytes(data))
        caplog.clear()
        assert_same(Archive(archive.store).snapshot(digests=True), expected)
        passed_over += "passed over" in caplog.text

    flip()
    assert passed_over > 30


@pytest.mark.parametrize("data", [b"", b"PAR1", b"nothing of the kind" * 100])
def test_what_is_no_checkpoint_is_passed_over(archive: Archive, caplog: pytest.LogCaptureFixture, data: bytes) -> None:
    expected = whole(archive)
    archive.store.put(checkpoint_key(63), data)
    assert_same(Archive(archive.store).snapshot(digests=True), expected)
    assert "checkpoint 63 is damaged" in caplog.text


def test_a_checkpoint_of_another_log_is_passed_over(
    archive: Archive, new_folder: NewStore, caplog: pytest.LogCaptureFixture
) -> None:
    expected = whole(archive)
    other = Archive.open(new_folder())
    for window_idx in range(32):
        commit(other, [row(thread_id("other"), window_idx, window_idx)], window_idx)
    other.write_checkpoint()
    archive.store.put(checkpoint_key(31), other.store.get(checkpoint_key(31)))
    assert_same(Archive(archive.store).snapshot(digests=True), expected)
    assert "was made from a segment" in caplog.text


def test_a_log_that_is_shorter_than_its_checkpoint_is_noticed(archive: Archive) -> None:
    archive.write_checkpoint()
    for seq in range(60, NUM_WINDOWS):
        archive.store.delete(segment_key(seq))
    with pytest.raises(IntegrityError, match="segment 63 is missing"):
        Archive(archive.store).snapshot()


def test_an_empty_log_and_empty_segments(new_folder: NewStore) -> None:
    archive = Archive.open(new_folder())
    archive.write_checkpoint()
    assert list(archive.store.list()) == []
    for window_idx in range(33):
        commit(archive, [], window_idx)
    archive.write_checkpoint()
    snapshot = Archive(archive.store).snapshot(digests=True)
    assert (snapshot.head.seq, len(snapshot.headers), len(snapshot.table)) == (32, 33, 0)
    assert snapshot.table.lookup("messages", ["0" * 32]).tolist() == [-1]


def test_what_failed_half_way_is_not_kept(archive: Archive) -> None:
    reader = Archive(archive.store)
    reader.snapshot()
    for window_idx in range(NUM_WINDOWS, NUM_WINDOWS + 3):
        commit(archive, window_rows(window_idx), window_idx)
    good = archive.store.get(segment_key(NUM_WINDOWS + 1))
    archive.store.put(segment_key(NUM_WINDOWS + 1), good.replace(b'"train"', b'"trian"'))
    with pytest.raises(IntegrityError, match=f"segment {NUM_WINDOWS + 1}"):
        reader.snapshot()
    archive.store.put(segment_key(NUM_WINDOWS + 1), good)
    expected = whole(archive)
    assert_same(reader.snapshot(digests=True), expected)


def test_cursors_and_files(new_store: NewStore) -> None:
    archive = Archive.open(new_store())
    import_windows(archive, 3)
    commit(archive, window_rows(3), 3, cursors={"other": {"uid": 9}}, parameters=PARAMETERS)
    reader = Archive(archive.store)
    assert reader.cursors() == {"inbox": 2, "other": {"uid": 9}}
    assert [file.key.split("/")[1] for file in reader.files("chunks")] == ["000000", "000001", "000002"]
    assert [file.key.split("/")[1] for file in reader.files("chunks", upto_window=1)] == ["000000", "000001"]
    assert reader.files("lengths") == []


def test_data_files(new_store: NewStore, tmp_path: Path) -> None:
    archive = Archive.open(new_store())
    (tmp_path / "data").write_bytes(b"some data")
    from_path = archive.write_data("chunks", 7, "train", tmp_path / "data", num_rows=2, suffix=".txt")
    from_bytes = archive.write_data("chunks", 7, "train", b"some data", num_rows=2, suffix=".txt")
    assert from_path == from_bytes
    assert from_path.key.startswith("chunks/000007/train-")
    assert (from_path.num_bytes, from_path.num_rows) == (9, 2)
    with archive.open_data(from_path) as stream:
        assert stream.read() == b"some data"
    archive.store.put(from_path.key, b"same size")
    with pytest.raises(IntegrityError, match="the log says") as caught, archive.open_data(from_path):
        pass
    assert from_path.key in caught.value.where
    with archive.open_data(from_path, check=False) as stream:
        assert stream.read() == b"same size"
