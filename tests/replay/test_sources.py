"""Plain files and an archive tell the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from replay.builders import archive, entry, message_id, write_archive, write_files

from jobs.contracts.errors import InputError, MissingInputError, UsageError
from jobs.contracts.records import Exclusion, short_digest
from jobs.replay.sources import ChunkSource, FileSource, open_source

ENTRIES = archive()
VAL = [one for one in ENTRIES if one.split == "val"]
RULES = [
    Exclusion("thread", VAL[0].thread_id, 3, "joined", "thread_x"),
    Exclusion("message", short_digest(message_id(VAL[-1])), 5, "near-duplicate", "0" * 32, 0.9),
    Exclusion("message", short_digest(message_id(VAL[1])), 9, "near-duplicate", "0" * 32, 0.9),
]


@pytest.fixture(params=["files", "archive"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> ChunkSource:
    if request.param == "files":
        return open_source({"assignments": [write_files(tmp_path, ENTRIES, RULES)]}, None, "")
    return open_source({}, write_archive(tmp_path, ENTRIES, RULES), "c9", messages=True)


def test_table(source: ChunkSource) -> None:
    assert list(source.table.entries()) == ENTRIES
    assert source.notes == []


def test_windows(source: ChunkSource) -> None:
    assert source.this_window() == 9
    assert source.cycle_windows(7) == list(range(8))


def test_exclusions_up_to_a_window(source: ChunkSource) -> None:
    assert source.exclusions(9) == RULES
    assert source.exclusions(5) == RULES[:2]


def test_messages(source: ChunkSource) -> None:
    rows = np.flatnonzero(source.table.window_idx == 4)
    assert source.count_messages(rows) == len(rows) > 0
    assert source.count_messages(rows[:0]) == 0
    everything = np.arange(len(ENTRIES))
    masked = {RULES[1].id, RULES[2].id, "f" * 32}
    at = {ENTRIES.index(VAL[-1]): [RULES[1].id], ENTRIES.index(VAL[1]): [RULES[2].id]}
    assert source.masked_messages(everything, masked) == at
    assert source.masked_messages(rows[:0], masked) == {}
    assert source.masked_messages(everything, set()) == {}


def test_cycle_of_several_windows(tmp_path: Path) -> None:
    log = write_archive(tmp_path, ENTRIES)
    assert open_source({}, log, "c4").this_window() == 4
    assert open_source({}, log, "another").this_window() == 9


def test_an_empty_archive(tmp_path: Path) -> None:
    source = open_source({}, write_archive(tmp_path, []), "", messages=True)
    assert len(source.table) == 0
    assert source.this_window() == 0
    assert source.count_messages(np.zeros(0, dtype=np.int64)) == 0


def test_context_is_not_counted(tmp_path: Path) -> None:
    """A message that is overlap here, or cut into parts, is one message."""
    write_files(tmp_path, [entry("t-0", "t"), entry("t-1", "t")])
    (tmp_path / "chunks.json").write_text(
        '[{"chunk_id": "t-0", "messages": [{"message_id": "m1"}, {"message_id": "m2", "part": 0}]},'
        ' {"chunk_id": "t-1", "messages": [{"message_id": "m0", "context": true}, {"message_id": "m2", "part": 1}]}]'
    )
    source = FileSource({"assignments": [tmp_path / "assignments.json"]})
    assert source.count_messages(np.array([0, 1])) == 2


def test_files_of_the_original_shape(tmp_path: Path) -> None:
    """Assignments alone, lengths as plain numbers under the other name."""
    (tmp_path / "assignments.json").write_text('{"x1": {"split": "train", "thread_id": "t", "window_idx": 0}}')
    (tmp_path / "length_buckets.json").write_text('{"x1": 600}')
    source = FileSource({"assignments": [tmp_path / "assignments.json"]})
    (only,) = source.table.entries()
    assert (only.num_tokens, only.length_bucket, only.sender) == (600, 2, "")
    assert source.notes == ["some chunks have no sender: no chunks.json or length_metadata.json tells it"]
    assert source.count_messages(np.array([0])) is None
    assert "how many messages are new is not known" in source.notes[-1]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"x1": {"split": "train"}}', "chunk x1 has no split or no window_idx"),
        ('["x1"]', "chunk x1 has no split or no window_idx"),
        (
            '[{"chunk_id": "a", "split": "train", "window_idx": 0},{"chunk_id": "a", "split": "val", "window_idx": 0}]',
            "twice",
        ),
    ],
)
def test_assignments_that_are_none(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "assignments.json").write_text(text)
    with pytest.raises(InputError, match=what):
        _ = FileSource({"assignments": [tmp_path / "assignments.json"]}).table


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        _ = FileSource({"assignments": [tmp_path / "assignments.json"]}).table
    with pytest.raises(UsageError):
        _ = FileSource({}).table
    assignments = write_files(tmp_path, ENTRIES)
    with pytest.raises(MissingInputError, match=r"lengths\.json"):
        _ = FileSource({"assignments": [assignments], "lengths": [tmp_path / "lengths.json"]}).table


def test_exclusion_that_is_none(tmp_path: Path) -> None:
    write_files(tmp_path, ENTRIES)
    (tmp_path / "exclusions.json").write_text('[{"kind": "thread"}]')
    with pytest.raises(InputError, match="not an exclusion"):
        FileSource({"assignments": [tmp_path / "assignments.json"]}).exclusions(9)
