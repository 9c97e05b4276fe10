"""Records: digests, length buckets and chunk ids."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contracts.records import MailRecord, chunk_id, length_bucket, short_digest, split_chunk_id


@pytest.mark.parametrize(
    ("num_tokens", "bucket"), [(0, 0), (256, 0), (257, 1), (512, 1), (513, 2), (1024, 2), (1025, 3), (10**6, 3)]
)
def test_length_buckets_close_at_their_upper_edge(num_tokens, bucket):
    assert length_bucket(num_tokens) == bucket


def test_a_short_digest_is_the_first_128_bits():
    assert short_digest(b"abc") == short_digest("abc") == hashlib.sha256(b"abc").hexdigest()[:32]
    assert len(short_digest("\ud800")) == 32


@given(st.text(max_size=40), st.integers(0, 10**9))
def test_a_chunk_id_is_read_back(thread, k):
    assert split_chunk_id(chunk_id(thread, k)) == (thread, k)


@pytest.mark.parametrize(
    "value", ["", "thread", "thread_window_", "thread_window_x", "thread_window_²", "thread-window-1"]
)
def test_what_is_no_chunk_id_is_refused(value):
    with pytest.raises(ValueError, match="not a chunk id"):
        split_chunk_id(value)


@given(st.binary(max_size=200))
def test_a_record_gives_its_bytes_back(raw):
    assert MailRecord("1@a", raw.decode("latin-1"), encoding="latin-1").raw == raw
