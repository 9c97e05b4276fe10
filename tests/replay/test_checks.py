"""No val or test chunk, and no chunk of an active window, gets through."""

from __future__ import annotations

from pathlib import Path

import pytest
from replay.builders import entry

from jobs.contracts.errors import InputError
from jobs.contracts.records import ManifestEntry
from jobs.replay.checks import checked
from jobs.replay.table import ChunkTable

FILE = Path("old.json")
LOG = ChunkTable.from_entries(
    [
        entry("t-0", "t", window=1),
        entry("t-1", "t", window=5),
        entry("v-0", "v", split="val"),
        entry("x-0", "x", split="test"),
    ]
)


def lists(*entries: ManifestEntry | str) -> ChunkTable:
    return ChunkTable.from_entries(entries)


def test_train_chunks_pass_with_what_the_log_says() -> None:
    table = checked(lists("t-1", "t-0"), FILE, LOG)
    assert table.chunk_ids.to_pylist() == ["t-1", "t-0"]
    assert table.window_idx.tolist() == [5, 1]
    assert table.num_tokens.tolist() == [100, 100]


@pytest.mark.parametrize(
    ("listed", "what"),
    [
        (lists("t-0", "v-0"), "old.json: chunk v-0 is of val, the assignments say"),
        (lists("x-0"), "old.json: chunk x-0 is of test"),
        (lists("t-0", "typo"), "old.json: chunk typo is not in the assignments"),
        # A list that lies about itself is believed neither way.
        (lists(entry("v-0", "v", split="train")), "chunk v-0 is of val, the assignments say"),
        (lists(entry("t-0", "t", split="test")), "chunk t-0 is of test; only train"),
    ],
)
def test_refused_against_the_log(listed: ChunkTable, what: str) -> None:
    with pytest.raises(InputError) as caught:
        checked(listed, FILE, LOG)
    assert what in str(caught.value)


def test_refused_by_its_own_word() -> None:
    with pytest.raises(InputError, match=r"old.json: chunk v-0 is of val; .*and 1 more like it|and 1 more like it"):
        checked(lists(entry("v-0", "v", split="val"), entry("v-1", "v", split="val")), FILE, None)


@pytest.mark.parametrize("log", [LOG, None])
def test_active_windows_are_refused(log: ChunkTable | None) -> None:
    listed = lists(entry("t-0", "t", window=1), entry("t-1", "t", window=5))
    assert len(checked(listed, FILE, log, first_active=6)) == 2
    with pytest.raises(InputError, match="chunk t-1 is of window 5, which is active; rehearsal takes windows before 5"):
        checked(listed, FILE, log, first_active=5)
