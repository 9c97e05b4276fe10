"""Search by words, and two rankings made one: against what is worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jobs.retrieval.fusion import fuse
from jobs.retrieval.lexical import WordIndex, best_rows, words

NONE = np.empty(0, np.int64)
TEXTS = ["the reshape broke", "reshape reshape", "pancakes for breakfast", "the end", "reshape raid5.c today"]


def test_bm25_is_lucene_s() -> None:
    """Score of one word: idf · tf / (tf + k1 · (1 - b + b · length / mean length)); k1 1.5, b 0.75."""
    lengths = [3, 2, 3, 2, 5]  # raid5.c counts as itself and its two parts
    mean = sum(lengths) / 5
    idf = math.log(1 + (5 - 3 + 0.5) / (3 + 0.5))
    expected = {
        row: idf * tf / (tf + 1.5 * (0.25 + 0.75 * lengths[row] / mean)) for row, tf in ((0, 1), (1, 2), (4, 1))
    }
    got = dict(WordIndex(TEXTS).search("Reshape?", 5, NONE, 10))
    assert got == pytest.approx(expected, rel=1e-5)


def test_a_cut_leaves_the_rest_as_it_was() -> None:
    index = WordIndex(TEXTS)
    everything = index.search("reshape the", 5, NONE, 10)
    assert index.search("reshape the", 2, NONE, 10) == [one for one in everything if one[0] < 2]
    assert index.search("reshape the", 5, np.array([1]), 10) == [one for one in everything if one[0] != 1]
    assert index.search("reshape the", 5, NONE, 1) == everything[:1]
    assert index.search("reshape the", 0, NONE, 10) == []


def test_what_shares_no_word_is_not_found() -> None:
    assert WordIndex(TEXTS).search("zebra", 5, NONE, 10) == []
    assert WordIndex([]).search("zebra", 0, NONE, 10) == []
    assert WordIndex(["", ""]).search("zebra", 2, NONE, 10) == []


def test_equal_scores_are_in_the_order_of_rows() -> None:
    assert [row for row, _ in WordIndex(["same words"] * 6).search("words", 6, NONE, 4)] == [0, 1, 2, 3]
    assert best_rows(np.array([1, 3, 3, 0, 3], np.float32), 2).tolist() == [1, 2]
    assert best_rows(np.array([1, 3], np.float32), 9).tolist() == [1, 0]


def test_words_of_mail() -> None:
    assert words("Fix raid5.c, says Ann@Example.org!") == [
        *("fix", "raid5.c", "raid5", "c", "says", "ann@example.org", "ann", "example", "org")
    ]
    assert words("x" * 65) == []


def test_fusion_by_hand() -> None:
    got = fuse({"dense": ["a", "b", "c"], "bm25": ["c", "d"]})
    assert [(one, score) for one, score, _ in got] == [
        ("c", pytest.approx(1 / 63 + 1 / 61)),
        ("a", pytest.approx(1 / 61)),
        ("b", pytest.approx(1 / 62)),
        ("d", pytest.approx(1 / 62)),
    ]
    assert got[0][2] == {"dense": 3, "bm25": 1}
    assert fuse({}) == []
