"""The window stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from replay.builders import archive, entry, message_id, write_archive, write_files

from jobs.contracts.errors import UsageError
from jobs.contracts.records import Exclusion, ManifestEntry, short_digest
from jobs.stages import Inputs, Outputs
from jobs.stages.window import Config, run

ENTRIES = archive()
VAL = [one for one in ENTRIES if one.split == "val"]
KINDS = ("new_train", "val_set", "test_set")


def outputs(folder: Path) -> Outputs:
    return Outputs({kind: folder / "out" / f"{kind}.json" for kind in KINDS})


def written(folder: Path) -> dict[str, Any]:
    return {kind: json.loads((folder / "out" / f"{kind}.json").read_text()) for kind in KINDS}


def ids(entries: list[dict[str, Any]]) -> list[str]:
    return [one["chunk_id"] for one in entries]


def chunks(split: str, windows: range) -> list[str]:
    return [one.chunk_id for one in ENTRIES if one.split == split and one.window_idx in windows]


def test_lists_by_split_and_window(tmp_path: Path) -> None:
    inputs = Inputs({"assignments": [write_files(tmp_path, ENTRIES)]})
    result = run(Config(window_idx=6, min_new_messages=3), inputs, outputs(tmp_path))
    lists = written(tmp_path)
    assert ids(lists["new_train"]) == chunks("train", range(6, 7)) != []
    assert ids(lists["val_set"]) == chunks("val", range(7)) != []
    assert ids(lists["test_set"]) == chunks("test", range(7)) != []
    assert [ManifestEntry(**one) for one in lists["new_train"]] == [
        one for one in ENTRIES if one.split == "train" and one.window_idx == 6
    ]
    assert result["num_new_train_chunks"] == result["num_new_train_messages"] == len(lists["new_train"])
    assert result["skipped"] is False


def test_a_window_that_is_not_there_yet_is_refused(tmp_path: Path) -> None:
    inputs = Inputs({"assignments": [write_files(tmp_path, ENTRIES)]})
    with pytest.raises(UsageError, match="there is no window 10 yet: the newest is 9"):
        run(Config(window_idx=10), inputs, outputs(tmp_path))


def test_exclusions_hold_from_their_window_on(tmp_path: Path) -> None:
    thread = VAL[0].thread_id
    masked = VAL[-1]
    assert masked.thread_id != thread
    rules = [
        Exclusion("thread", thread, 4, "joined", "thread_x"),
        Exclusion("message", short_digest(message_id(masked)), 9, "near-duplicate", "0" * 32, 0.9),
    ]
    inputs = Inputs({"assignments": [write_files(tmp_path, ENTRIES, rules)]})
    run(Config(window_idx=3), inputs, outputs(tmp_path))
    assert ids(written(tmp_path)["val_set"]) == chunks("val", range(4))
    result = run(Config(window_idx=9), inputs, outputs(tmp_path))
    val = written(tmp_path)["val_set"]
    assert ids(val) == [one.chunk_id for one in VAL if one.thread_id != thread]
    assert {one["chunk_id"]: one["masked_messages"] for one in val if "masked_messages" in one} == {
        masked.chunk_id: [rules[1].id]
    }
    assert result["num_val_excluded_chunks"] == sum(one.thread_id == thread for one in VAL)
    assert result["num_val_masked_messages"] == 1


def test_files_and_archive_give_the_same_bytes(tmp_path: Path) -> None:
    rules = [Exclusion("message", short_digest(message_id(VAL[0])), 2, "near-duplicate", "0" * 32)]
    (tmp_path / "files").mkdir()
    inputs = Inputs({"assignments": [write_files(tmp_path / "files", ENTRIES, rules)]})
    first = run(Config(), inputs, outputs(tmp_path / "files"))
    log = write_archive(tmp_path / "archive", ENTRIES, rules)
    assert run(Config(), Inputs(archive=log, cycle="c9"), outputs(tmp_path / "archive")) == first
    for kind in KINDS:
        name = f"out/{kind}.json"
        assert (tmp_path / "archive" / name).read_bytes() == (tmp_path / "files" / name).read_bytes()


def test_the_window_of_the_cycle_that_wrote_it(tmp_path: Path) -> None:
    log = write_archive(tmp_path, ENTRIES)
    assert run(Config(), Inputs(archive=log, cycle="c5"), Outputs())["window_idx"] == 5
    assert run(Config(), Inputs(archive=log, cycle="later"), Outputs())["window_idx"] == 9


@pytest.mark.parametrize(("num_messages", "skipped"), [(9, True), (10, False)])
def test_skipped_by_messages_not_chunks(tmp_path: Path, num_messages: int, skipped: bool) -> None:
    assignments = write_files(tmp_path, [entry("t-0", "t"), entry("v-0", "v", split="val")])
    messages = [{"message_id": f"m{i}"} for i in range(num_messages)]
    lines = [{"chunk_id": "t-0", "messages": messages}, {"chunk_id": "v-0", "messages": [{"message_id": "other"}]}]
    (tmp_path / "chunks.json").write_text(json.dumps(lines))
    result = run(Config(), Inputs({"assignments": [assignments]}), Outputs())
    assert result == {
        "window_idx": 0,
        "num_new_train_chunks": 1,
        "num_new_train_messages": num_messages,
        "skipped": skipped,
    }


def test_an_empty_window_is_skipped(tmp_path: Path) -> None:
    entries = [one for one in ENTRIES if one.split != "train" or one.window_idx != 9]
    inputs = Inputs({"assignments": [write_files(tmp_path, entries)]})
    result = run(Config(window_idx=9), inputs, outputs(tmp_path))
    assert (result["num_new_train_chunks"], result["skipped"]) == (0, True)
    assert written(tmp_path)["new_train"] == []


def test_unknown_messages_skip_nothing(tmp_path: Path) -> None:
    assignments = write_files(tmp_path, [entry("t-0", "t")])
    (tmp_path / "chunks.json").unlink()
    result = run(Config(), Inputs({"assignments": [assignments]}), Outputs())
    assert result["num_new_train_messages"] is None
    assert result["skipped"] is False
    assert result["notes"]
