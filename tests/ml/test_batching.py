from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jobs.ml.batching import collate, token_batches
from jobs.ml.encoding import IGNORED, Example


@given(st.lists(st.integers(1, 90)), st.integers(1, 200))
def test_batches_hold_each_text_once_and_no_more_tokens_than_they_may(lengths, max_tokens):
    batches = token_batches(lengths, max_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = max(lengths[index] for index in batch) * len(batch)
        assert padded <= max_tokens or len(batch) == 1
    in_order = [lengths[index] for batch in batches for index in batch]
    assert in_order == sorted(lengths, reverse=True)


@given(st.lists(st.integers(1, 50), min_size=2))
def test_a_batch_is_full_before_the_next_begins(lengths):
    batches = token_batches(lengths, 120)
    for batch in batches[:-1]:
        assert (len(batch) + 1) * lengths[batch[0]] > 120


def test_a_batch_by_hand():
    assert token_batches([3, 9, 3, 5, 3], 10) == [[1], [3, 0], [2, 4]]
    assert token_batches([], 10) == []


def test_padding_is_on_the_right_and_no_target():
    def example(*ids):
        array = np.array(ids, np.int32)
        return Example("x", array, array, array.astype(np.int16))

    batch = collate([example(4, 5, 6), example(7)], pad_id=1)
    assert batch["input_ids"].tolist() == [[4, 5, 6], [7, 1, 1]]
    assert batch["labels"].tolist() == [[4, 5, 6], [7, IGNORED, IGNORED]]
