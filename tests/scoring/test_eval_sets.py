"""Lists of val and test chunks, as evaluate reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.contracts.errors import InputError, IntegrityError
from jobs.contracts.records import Chunk, ChunkMessage, short_digest
from jobs.scoring.eval_sets import read_eval_set


def chunk(name: str, split: str = "val") -> Chunk:
    messages = [ChunkMessage(f"{name}-{one}", "a@b.c", "", 0, 0, 0, context=one == "old") for one in ("old", "x", "y")]
    return Chunk(name, "t", split, 0, "", "", "", 0, 0, messages, "")  # type: ignore[arg-type]


def write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_masked_messages_and_overlap_are_no_targets(tmp_path: Path) -> None:
    masked = [short_digest("b-x")]
    path = write(tmp_path / "val.json", [{"chunk_id": "b", "masked_messages": masked}, {"chunk_id": "a"}])
    found = read_eval_set(path, "val", lambda ids: [chunk(one) for one in ids])
    assert [one.chunk_id for one in found.chunks] == ["a", "b"]
    assert found.targets() == ["a-x", "a-y", "b-y"]


def test_an_empty_list_reads_no_texts(tmp_path: Path) -> None:
    assert (
        read_eval_set(write(tmp_path / "val.json", []), "val", lambda _: pytest.fail("it asked for texts")).chunks == []
    )


@pytest.mark.parametrize("value", [{"a": 1}, ["a"], [{"thread_id": "t"}], 3])
def test_another_file_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(InputError, match="not a list of chunks"):
        read_eval_set(write(tmp_path / "val.json", value), "val", lambda _: [])


def test_a_train_chunk_is_never_scored_as_val(tmp_path: Path) -> None:
    path = write(tmp_path / "val.json", [{"chunk_id": "a"}])
    with pytest.raises(IntegrityError, match="chunk a is of train, not of val"):
        read_eval_set(path, "val", lambda _: [chunk("a", "train")])
