import hashlib
import random
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jobs.mail import near_duplicates
from jobs.mail.near_duplicates import (
    MAX_PER_BUCKET,
    MIN_WORDS,
    NUM_BANDS,
    THRESHOLD,
    candidates,
    containment,
    fingerprints,
    shingles,
    verified,
    words,
)

VOCABULARY = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in ("", "r", "s", "nt", "ck")]


def text_of(draw: random.Random, num_words: int) -> str:
    return " ".join(VOCABULARY[int(draw.random() * len(VOCABULARY))] for _ in range(num_words))


def edited(draw: random.Random, text: str, num_edits: int) -> str:
    found = text.split()
    for _ in range(num_edits):
        found[int(draw.random() * len(found))] = "edited" + str(int(draw.random() * 1e6))
    return " ".join(found)


def resemblance(a: str, b: str) -> float:
    """Jaccard's similarity of two texts, by which candidates are found."""
    one, other = shingles(a), shingles(b)
    return len(one & other) / len(one | other)


def planted(seed: int, num_pairs: int, edits: range) -> list[tuple[str, str, float]]:
    """Texts, the same with some words changed, and how similar the two are."""
    draw = random.Random(seed)
    found = []
    for number in range(num_pairs):
        text = text_of(draw, 60 + number % 200)
        other = edited(draw, text, edits[number % len(edits)])
        found.append((text, other, resemblance(text, other)))
    return found


def found_pairs(eval_texts, train_texts):
    """(eval number, train number, containment), the eval texts coming first."""
    texts = [*eval_texts, *train_texts]
    valid, bands = fingerprints(texts)
    assert valid.all()
    rows = candidates(bands, np.arange(len(texts)) >= len(eval_texts))
    return [(a, b - len(eval_texts), score) for a, b, score in verified(*rows, texts.__getitem__)]


# ---- similarity


def test_words_are_lower_case_letters_digits_and_underscores():
    assert words("Re: The_disk's FULL — 日本 42%") == ["re", "the_disk", "s", "full", "日本", "42"]


def test_containment_as_by_hand():
    text = " ".join(map(str, range(104)))  # 100 shingles
    assert len(shingles(text)) == 100
    longer = text + " and one two"  # 3 more
    assert containment(shingles(text), shingles(longer)) == 1
    assert containment(shingles(longer), shingles(text)) == 100 / 103
    assert containment(shingles(text), shingles(text.replace("50", "x"))) == 95 / 100  # 5 lost, 5 new
    assert containment(shingles(text), shingles(text_of(random.Random(1), 100))) == 0


def test_short_texts_are_like_nothing():
    assert shingles(" ".join(["word"] * (MIN_WORDS - 1))) == set()
    assert len(shingles(" ".join(["word"] * MIN_WORDS))) == 1
    assert containment(set(), {("a",) * 5}) == containment(set(), set()) == 0


# ---- fingerprints


def test_fingerprints_are_pinned():
    """They are stored: another value here makes every archive's fingerprints useless."""
    texts = [text_of(random.Random(seed), 50 + seed) for seed in range(20)] + ["Größe 日本 " * 40, "short"]
    valid, bands = fingerprints(texts)
    assert valid.tolist() == [True] * 21 + [False]
    assert bands.shape == (22, NUM_BANDS)
    assert not bands[-1].any()
    assert [f"{key:016x}" for key in bands[0, :2].tolist()] == ["a005620a67bd2728", "d8e4a1cf199577f7"]
    assert hashlib.sha256(bands.astype("<u8").tobytes()).hexdigest()[:16] == "6d85d84b919e8420"


def reference_fingerprint(text: str) -> list[int]:
    """The same in Python's integers, as the module's documentation says it."""
    all_bits = (1 << 64) - 1

    def mix(value):
        value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & all_bits
        value = ((value ^ value >> 27) * 0x94D049BB133111EB) & all_bits
        return value ^ value >> 31

    def constants(count, seed):
        return [mix((seed + (i + 1) * 0x9E3779B97F4A7C15) & all_bits) for i in range(count)]

    def word_hash(word):
        return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")

    def combined(values, seed):
        return mix(sum(v * (c | 1) for v, c in zip(values, constants(len(values), seed), strict=True)) & all_bits)

    grams = [combined(list(map(word_hash, gram)), 1) >> 32 for gram in shingles(text)]
    factors, terms = constants(128, 2), constants(128, 3)
    least = [
        min((gram * (factor >> 32 | 1) + (term >> 32)) % (1 << 32) for gram in grams)
        for factor, term in zip(factors, terms, strict=True)
    ]
    return [combined(least[6 * band : 6 * band + 6], 4) for band in range(21)]


def test_fingerprints_as_by_hand():
    for seed in range(5):
        text = text_of(random.Random(seed), 50 + 30 * seed)
        assert fingerprints([text])[1][0].tolist() == reference_fingerprint(text)


def test_fingerprints_do_not_depend_on_blocks_or_neighbours(monkeypatch):
    texts = [text_of(random.Random(seed), 20 + 7 * seed) for seed in range(30)]
    _, whole = fingerprints(texts)
    monkeypatch.setattr(near_duplicates, "_BLOCK_WORDS", 100)
    monkeypatch.setattr(near_duplicates, "_MAX_KNOWN_WORDS", 50)
    assert (fingerprints(texts)[1] == whole).all()
    assert all((fingerprints([text])[1] == row).all() for text, row in zip(texts, whole, strict=True))
    assert fingerprints([])[1].shape == (0, NUM_BANDS)


def test_case_punctuation_and_line_ends_do_not_matter():
    text = text_of(random.Random(3), 80)
    _, bands = fingerprints([text, "> " + text.upper().replace(" ", ",\r\n")])
    assert (bands[0] == bands[1]).all()


def test_min_hashes_estimate_the_similarity():
    """The share of equal values is an unbiased estimate of Jaccard similarity (Broder 1997)."""
    pairs = planted(seed=5, num_pairs=400, edits=range(1, 12))
    hashes = []
    for side in (0, 1):
        blocks = near_duplicates._blocks([pair[side] for pair in pairs])
        hashes.append(
            np.hstack([near_duplicates._min_hashes(near_duplicates._shingle_hashes(h, s), s) for _, h, s in blocks])
        )
    error = (hashes[0] == hashes[1]).mean(axis=0) - np.array([similarity for _, _, similarity in pairs])
    assert abs(error.mean()) < 0.01
    assert error.std() < 0.05  # sqrt(s (1 - s) / 128) is at most 0.044


# ---- finding


@pytest.mark.parametrize(("low", "high", "edits"), [(0.85, 1.01, range(4)), (0.8, 0.85, range(1, 4))])
def test_near_duplicates_are_found(low, high, edits):
    pairs = [pair for pair in planted(seed=7, num_pairs=2000, edits=edits) if low <= pair[2] < high]
    assert len(pairs) > 200
    found = found_pairs([a for a, _, _ in pairs], [b for _, b, _ in pairs])
    assert len(found) >= 0.99 * len(pairs)
    assert all(eval_row == train_row for eval_row, train_row, _ in found)
    shares = [containment(shingles(a), shingles(b)) for a, b, _ in pairs]
    assert [share for _, _, share in found] == [shares[row] for row, _, _ in found]


def test_what_is_less_similar_is_not():
    pairs = [pair for pair in planted(seed=9, num_pairs=1000, edits=range(3, 20)) if pair[2]]
    pairs = [(a, b, s) for a, b, s in pairs if containment(shingles(a), shingles(b)) < THRESHOLD]
    assert sum(similarity > 0.6 for _, _, similarity in pairs) > 50
    assert found_pairs([a for a, _, _ in pairs], [b for _, b, _ in pairs]) == []


def test_a_text_that_stands_whole_in_a_longer_one_is_found_and_the_longer_in_it_is_not():
    """As often as by chance: 0.93 of those of resemblance 0.7."""
    draw = random.Random(11)
    pairs = [(text, text_of(draw, 90) + " " + text) for text in (text_of(draw, 200) for _ in range(300))]
    assert all(0.6 < resemblance(text, longer) < 0.75 for text, longer in pairs)
    found = found_pairs([text for text, _ in pairs], [longer for _, longer in pairs])
    assert len(found) > 240
    assert all(eval_row == train_row and share == 1 for eval_row, train_row, share in found)
    assert found_pairs([longer for _, longer in pairs], [text for text, _ in pairs]) == []


def test_a_hundred_thousand_equal_notices_are_no_more_work_than_a_few():
    text = text_of(random.Random(1), 60)
    _, bands = fingerprints([text])
    train = np.arange(100_000) % 5 > 0
    eval_rows, train_rows = candidates(np.repeat(bands, 100_000, axis=0), train)
    assert len(eval_rows) <= MAX_PER_BUCKET * 100_000
    assert (np.unique(eval_rows) == np.flatnonzero(~train)).all()
    asked = []
    found = verified(eval_rows[:80], train_rows[:80], lambda row: asked.append(row) or text)
    assert [row for row, _, _ in found] == np.unique(eval_rows[:80]).tolist()
    assert len(asked) == len(set(asked)) <= 2 * len(found)  # one match is enough


def test_a_near_duplicate_in_a_crowd_that_comes_near_it_in_time():
    """The one near-duplicate among texts that share a key with it here and there."""
    draw = random.Random(4)
    text = text_of(draw, 200)
    crowd = [edited(draw, text, 14) for _ in range(300)]
    assert max(containment(shingles(text), shingles(other)) for other in crowd) < THRESHOLD
    crowd.insert(20, edited(draw, text, 1))
    assert [row for _, row, _ in found_pairs([text], crowd)] == [20]


def test_nothing_to_compare():
    for num_rows, num_train in ((0, 0), (1, 0), (1, 1), (3, 3), (3, 0)):
        rows = candidates(np.ones((num_rows, NUM_BANDS), np.uint64), np.arange(num_rows) < num_train)
        assert [len(side) for side in rows] == [0, 0]
        assert verified(*rows, str) == []
    assert len(candidates(np.ones((4, NUM_BANDS), np.uint64), np.arange(4) < 2, first_new=4)[0]) == 0


def slow_candidates(bands, train, first_new):
    shared = Counter()
    for column in bands.T.tolist():
        for row, key in enumerate(column):
            before = [other for other in range(row) if column[other] == key and train[other] != train[row]]
            for other in before[-MAX_PER_BUCKET:] if row >= first_new else ():
                shared[(other, row) if train[row] else (row, other)] += 1
    return sorted(shared, key=lambda pair: (pair[0], -shared[pair], pair[1]))


tables = st.integers(0, 40).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.uint64, (n, 3), elements=st.integers(0, 3)), hnp.arrays(np.bool_, n), st.integers(0, n)
    )
)


def as_pairs(rows):
    return list(zip(*(side.tolist() for side in rows), strict=True))


@settings(deadline=None)
@given(tables)
def test_candidates_as_by_hand(table):
    assert as_pairs(candidates(*table)) == slow_candidates(*table)


@settings(deadline=None)
@given(tables)
def test_two_imports_find_what_one_does(table):
    bands, train, first_new = table
    both = as_pairs(candidates(bands[:first_new], train[:first_new])) + as_pairs(candidates(bands, train, first_new))
    assert sorted(both) == sorted(as_pairs(candidates(bands, train)))


@given(st.text(st.characters(max_codepoint=127)) | st.text())
def test_words_are_runs_of_letters_digits_and_underscores(text):
    assert words(text) == re.findall(r"\w+", text.lower())
