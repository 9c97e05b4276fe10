"""What is wrong with a log is named, exactly."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from logwriting import PARAMETERS, commit, import_windows, row, thread_id, window_rows
from splitting import mail, split, threads_by_split

from jobs.assignments import checkpoint
from jobs.assignments.archive import Archive
from jobs.assignments.segment import Draft, Head, decode, digest, encode
from jobs.assignments.verify import Problem, verify
from jobs.contracts.artifacts import DATA_KINDS, DELETABLE_KINDS, checkpoint_key, segment_key

if TYPE_CHECKING:
    from pathlib import Path

    from servers.stores import NewStore

NUM_WINDOWS = 6


@pytest.fixture
def archive(new_folder: NewStore) -> Archive:
    archive = Archive.open(new_folder())
    import_windows(archive, NUM_WINDOWS)
    return archive


def named(archive: Archive, **options: object) -> list[str]:
    """The keys that `verify` names."""
    return [problem.key for problem in verify(Archive(archive.store), **options).problems]  # type: ignore[arg-type]


def rewrite(archive: Archive, seq: int) -> None:
    """Replace a segment by a well-formed one with another row."""
    segment = decode(archive.store.get(segment_key(seq)))
    rows = [replace(segment.rows()[0], text_sha256="0" * 64), *segment.rows()[1:]]
    header = segment.header
    draft = Draft(rows, header.window_idx, PARAMETERS, header.cycle, files=header.files, cursors=header.cursors)
    archive.store.put(segment_key(seq), encode(draft, Head(seq - 1, header.prev_sha256))[1])


def test_a_whole_log(new_store: NewStore) -> None:
    archive = Archive.open(new_store())
    import_windows(archive, NUM_WINDOWS)
    checkpoint.write(archive.store, archive.log, 3)
    report = verify(Archive.open(archive.store.url, read_only=True), deep=True, head=archive.log.head())
    assert report.problems == []
    assert report.notes == []
    assert report.head == archive.log.head()
    assert (report.num_segments, report.num_data_files, report.num_threads) == (NUM_WINDOWS, NUM_WINDOWS, NUM_WINDOWS)
    assert report.num_rows == sum(len(window_rows(window_idx)) for window_idx in range(NUM_WINDOWS))


def test_an_empty_log(new_folder: NewStore) -> None:
    report = verify(Archive.open(new_folder()))
    assert (report.problems, report.num_segments, report.head) == ([], 0, Head())


@pytest.mark.parametrize("seq", range(NUM_WINDOWS - 1))
def test_a_flipped_bit_is_named_wherever_it_is(archive: Archive, seq: int) -> None:
    good = archive.store.get(segment_key(seq))
    for at in range(0, len(good), 37):
        data = bytearray(good)
        data[at] ^= 1
        archive.store.put(segment_key(seq), bytes(data))
        assert named(archive) == [segment_key(seq)], at


def test_damage_to_the_newest_segment_is_noticed_where_it_is_no_json_any_more(archive: Archive) -> None:
    key = segment_key(NUM_WINDOWS - 1)
    data = bytearray(archive.store.get(key))
    data[-10] = ord('"')
    archive.store.put(key, bytes(data))
    assert named(archive) == [key]


def test_each_kind_of_damage_on_each_store(new_store: NewStore) -> None:
    archive = Archive.open(new_store())
    import_windows(archive, NUM_WINDOWS)
    good = {seq: archive.store.get(segment_key(seq)) for seq in range(NUM_WINDOWS)}

    archive.store.put(segment_key(1), good[1].replace(b"train", b"trian", 1))
    archive.store.delete(segment_key(3))
    assert named(archive) == [segment_key(1), segment_key(3)]
    archive.store.put(segment_key(3), good[3])
    assert named(archive) == [segment_key(1)]
    archive.store.put(segment_key(1), good[1])

    rewrite(archive, 2)
    report = verify(Archive(archive.store))
    assert [p.key for p in report.problems] == [segment_key(2)]
    assert f"segment 3 follows {digest(good[2])[:16]}" in report.problems[0].what
    assert "chain is broken" in report.notes[0]
    archive.store.put(segment_key(2), good[2])
    assert verify(Archive(archive.store)).problems == []


@pytest.mark.parametrize("seq", range(NUM_WINDOWS - 1))
def test_a_missing_segment_is_named(archive: Archive, seq: int) -> None:
    archive.store.delete(segment_key(seq))
    assert verify(Archive(archive.store)).problems == [Problem(segment_key(seq), f"segment {seq} is missing")]


@pytest.mark.parametrize("seq", range(NUM_WINDOWS))
def test_a_rewritten_segment_is_named(archive: Archive, seq: int) -> None:
    head = archive.log.head()
    rewrite(archive, seq)
    assert named(archive, head=head) == [segment_key(seq)]
    assert named(archive) == ([segment_key(seq)] if seq < NUM_WINDOWS - 1 else []), "nothing vouches for the newest"


def test_a_log_that_was_cut_short_or_rewritten_as_a_whole_is_known_by_its_head(
    archive: Archive, new_folder: NewStore
) -> None:
    head = archive.log.head()
    archive.store.delete(segment_key(5))
    assert named(archive) == []
    assert named(archive, head=head) == [segment_key(5)]
    archive.store.delete(segment_key(4))
    assert named(archive, head=head) == [segment_key(4), segment_key(5)]

    other = Archive.open(new_folder())
    for window_idx in range(NUM_WINDOWS):
        commit(other, [row(thread_id("other"), window_idx, window_idx)], window_idx)
    assert named(other) == []
    assert named(other, head=head) == [segment_key(5)]
    earlier = Head(2, decode(other.store.get(segment_key(2))).sha256)
    assert named(other, head=earlier) == []


def test_a_checkpoint_vouches_for_the_segment_that_it_ends_with(archive: Archive) -> None:
    checkpoint.write(archive.store, archive.log, NUM_WINDOWS - 1)
    rewrite(archive, NUM_WINDOWS - 1)
    report = verify(Archive(archive.store))
    assert [p.key for p in report.problems] == [segment_key(NUM_WINDOWS - 1)]
    assert f"checkpoint {NUM_WINDOWS - 1} was made from" in report.problems[0].what
    archive.store.delete(segment_key(NUM_WINDOWS - 1))
    assert named(archive) == [segment_key(NUM_WINDOWS - 1)]


def test_two_damages_are_both_named(archive: Archive) -> None:
    rewrite(archive, 1)
    rewrite(archive, 4)
    assert named(archive) == [segment_key(1), segment_key(4)]


def test_a_first_segment_that_is_not_the_first(archive: Archive) -> None:
    segment = decode(archive.store.get(segment_key(0)))
    draft = Draft(segment.rows(), 0, PARAMETERS)
    archive.store.delete(segment_key(0))
    for seq in range(1, NUM_WINDOWS):
        archive.store.delete(segment_key(seq))
    archive.store.put(segment_key(0), encode(draft, Head(-1, "a" * 64))[1])
    report = verify(Archive(archive.store))
    assert [p.key for p in report.problems] == [segment_key(0)]
    assert "another one came before it" in report.problems[0].what


# Rows


def forged(new_folder: NewStore, *windows: list[object], parameters: object = PARAMETERS) -> Archive:
    """A log whose chain is sound, whatever its rows are."""
    archive = Archive.open(new_folder())
    head = Head()
    for seq, rows in enumerate(windows):
        header, data = encode(Draft(rows, rows[0].window_idx, PARAMETERS), head)  # type: ignore[attr-defined,arg-type]
        archive.store.put(segment_key(seq), data)
        head = Head(header.seq, digest(data))
    return archive


def only_problem(archive: Archive, key: str, pattern: str) -> None:
    (problem,) = verify(archive).problems
    assert problem.key == key
    assert re.search(pattern, problem.what), problem.what


def test_a_chunk_that_is_there_twice(new_folder: NewStore) -> None:
    a = thread_id("a")
    again = replace(row(a, 0, 1), messages=[], contents=[])
    problems = verify(forged(new_folder, [row(a, 0, 0)], [again])).problems
    assert {p.key for p in problems} == {segment_key(1)}
    assert f"segment 1: chunk {a}_window_0 (train) is in the log already" in [p.what for p in problems]


def test_a_foreign_chunk_that_is_there_twice(new_folder: NewStore) -> None:
    foreign = replace(row("any", 0, 0, num_messages=0), chunk_id="chunk")
    only_problem(
        forged(new_folder, [foreign], [replace(foreign, window_idx=1)]), segment_key(1), "chunk chunk .* already"
    )


def test_a_thread_with_two_splits(new_folder: NewStore) -> None:
    a, b = thread_id("a"), thread_id("b")
    archive = forged(new_folder, [row(a, 0, 0), row(b, 0, 0, "val")], [row(a, 1, 1, "test"), row(b, 1, 1, "val")])
    only_problem(archive, segment_key(1), rf"chunk {a}_window_1 \(test\) has another split")


@pytest.mark.parametrize("ks", [[1], [0, 2], [0, 1, 3]])
def test_a_thread_with_a_gap(new_folder: NewStore, ks: list[int]) -> None:
    a, b = thread_id("a"), thread_id("b")
    windows = [[row(a, k, window_idx), row(b, window_idx, window_idx)] for window_idx, k in enumerate(ks)]
    only_problem(forged(new_folder, *windows), segment_key(len(ks) - 1), f"{a}_window_{ks[-1]} .* does not follow")


def test_a_window_that_goes_back(new_folder: NewStore) -> None:
    archive = forged(new_folder, [row(thread_id("a"), 0, 5)], [row(thread_id("b"), 0, 4)])
    only_problem(archive, segment_key(1), "segment 1 is of window 4, after 5")


def test_a_message_in_two_threads(new_folder: NewStore) -> None:
    one, two = row(thread_id("a"), 0, 0), row(thread_id("b"), 0, 1)
    archive = forged(new_folder, [one], [replace(two, messages=[two.messages[0], one.messages[1]])])
    only_problem(archive, segment_key(1), "another thread's chunk")


def test_parts_of_a_message_in_two_chunks_of_one_thread(new_folder: NewStore) -> None:
    one = row(thread_id("a"), 0, 0)
    assert verify(forged(new_folder, [one], [replace(row(thread_id("a"), 1, 1), messages=one.messages)])).problems == []


def test_many_of_a_kind_are_counted(new_folder: NewStore) -> None:
    rows = [row(thread_id(n), 0, 0) for n in range(30)]
    archive = forged(new_folder, rows, [row(r.thread_id, 1, 1, "val") for r in rows])
    problems = verify(archive).problems
    assert len(problems) == 11
    assert "20 more chunks" in problems[-1].what


def test_other_parameters(new_folder: NewStore) -> None:
    archive = forged(new_folder, [row(thread_id("a"), 0, 0)])
    data = encode(Draft([row(thread_id("a"), 1, 1)], 1, {"seed": 1}), archive.log.head())[1]
    archive.store.put(segment_key(1), data)
    only_problem(archive, segment_key(1), "other parameters")


# Checkpoints and data files


def test_a_damaged_checkpoint(archive: Archive) -> None:
    checkpoint.write(archive.store, archive.log, 3)
    archive.store.put(checkpoint_key(3), archive.store.get(checkpoint_key(3))[:-10])
    report = verify(Archive(archive.store))
    assert [p.key for p in report.problems] == [checkpoint_key(3)]
    assert "delete it" in report.problems[0].what
    assert report.num_rows > 0, "the log itself was checked"


def test_a_checkpoint_with_other_rows_than_its_segments(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checkpoint.encode

    def lying(snapshot: checkpoint.Snapshot, path: object) -> None:
        snapshot.table.split[2] = 1
        real(snapshot, path)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "encode", lying)
    checkpoint.write(archive.store, archive.log, 3)
    report = verify(Archive(archive.store))
    assert [p.key for p in report.problems] == [checkpoint_key(3)]
    assert "not what its segments give" in report.problems[0].what


def test_data_files(new_store: NewStore) -> None:
    archive = Archive.open(new_store())
    import_windows(archive, NUM_WINDOWS)
    first, second = archive.files("chunks")[:2]
    archive.store.delete(first.key)
    archive.store.put(second.key, b"other")
    archive.store.put("chunks/000000/orphan", b"left by a writer that was killed")
    report = verify(Archive(archive.store))
    assert report.problems == []
    assert f"1 data files are gone, the first of them {first.key}" in report.notes
    assert any("of no commit" in note for note in report.notes)
    assert named(archive, deep=True) == [second.key]


@pytest.mark.parametrize("kind", DATA_KINDS)
def test_a_file_that_is_missing_is_a_fault_where_it_may_not_be_deleted(tmp_path: Path, kind: str) -> None:
    archive = Archive.open((tmp_path / "archive").as_uri())
    text = " ".join(f"word{number}" for number in range(60))
    one, other = threads_by_split()["train"][0], threads_by_split()["val"][0]
    split(archive, [mail(one, body=text), mail(other, body=text)], tmp_path)  # a near-duplicate: an exclusion
    split(archive, [mail("both@x", references=(one, other))], tmp_path)  # a link
    key = archive.files(kind)[0].key
    archive.store.delete(key)
    report = verify(archive)
    assert [problem.key for problem in report.problems] == ([] if kind in DELETABLE_KINDS else [key])
    assert any("gone" in note for note in report.notes) == (kind in DELETABLE_KINDS)
