"""Keys: one function for each, sorted as their numbers are, and read back as they were built."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contracts.artifacts import (
    ARTIFACTS,
    DATA_KINDS,
    artifact_key,
    checkpoint_key,
    checkpoint_seq,
    cycle_key,
    data_key,
    marker_key,
    production_key,
    segment_key,
    segment_seq,
)

SEQ = st.integers(0, 10**20 - 1)


def test_keys_as_they_lie_in_an_archive():
    assert segment_key(7) == "assignments/00000000000000000007.jsonl"
    assert checkpoint_key(7) == "checkpoints/00000000000000000007.parquet"
    assert production_key(7) == "production/00000000000000000007.json"
    assert data_key("chunks", 12, "train", "ab" * 32, ".jsonl.zst") == "chunks/000012/train-abababababababab.jsonl.zst"
    assert cycle_key("w27", "sample", "report.txt") == "cycles/w27/sample/report.txt"
    assert artifact_key("w27", "sample", "schedule") == "cycles/w27/sample/epoch_schedule.json"
    assert marker_key("w27", "sample") == "cycles/w27/sample/_SUCCESS.json"


@given(SEQ, SEQ)
def test_keys_sort_as_their_numbers(a, b):
    for key in (segment_key, checkpoint_key, production_key):
        assert (key(a) < key(b)) == (a < b)


@given(SEQ)
def test_numbers_are_read_back(seq):
    assert segment_seq(segment_key(seq)) == seq
    assert checkpoint_seq(checkpoint_key(seq)) == seq


@pytest.mark.parametrize(
    "key",
    [
        "assignments/7.jsonl",
        "assignments/00000000000000000007.json",
        "x/assignments/00000000000000000007.jsonl",
        "",
        "a",
    ],
)
def test_another_key_has_no_number(key):
    assert segment_seq(key) is None
    assert checkpoint_seq(key) is None
    assert checkpoint_seq(segment_key(7)) is None
    assert segment_seq(checkpoint_key(7)) is None


def test_no_two_artifacts_share_a_file():
    assert len({artifact.filename for artifact in ARTIFACTS.values()}) == len(ARTIFACTS)
    assert all(kind == artifact.kind for kind, artifact in ARTIFACTS.items())


def test_a_data_kind_that_does_not_exist_is_refused():
    assert len(set(DATA_KINDS)) == len(DATA_KINDS)
    with pytest.raises(ValueError, match="no such data kind: texts"):
        data_key("texts", 0, "train", "ab" * 32, ".jsonl")
