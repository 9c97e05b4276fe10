"""Losses and probabilities over one loaded model; what evaluate makes of them is tests/stages/test_evaluate.py's."""

from __future__ import annotations

import pytest

from jobs.ml.base_model import num_positions
from jobs.ml.evaluating import Scorer

HEADER = ("somebody@x.example", "2025-01-06T04:39:36Z")


@pytest.fixture(scope="module")
def scorer(base, encoder) -> Scorer:
    return Scorer(base, encoder, precision="fp32", device="cpu", batch_tokens=8192, seed=0)


def test_of_a_mail_that_is_longer_than_the_model_reads_the_beginning_is_judged(scorer, model, encoder):
    lines = "".join(f"md127: rebuilt block {number} of 4000\n" for number in range(4000))
    (num_tokens,) = encoder.count([lines])
    limit = num_positions(model)
    assert num_tokens > 2 * limit
    ((long, judged), (short, num_short)) = scorer.log_probabilities(
        [("A pasted log", (*HEADER, lines)), ("A pasted log", (*HEADER, "Thanks."))]
    )
    assert limit - 200 < judged < limit
    assert long < short < 0
    ((alone, num_alone),) = scorer.log_probabilities([("A pasted log", (*HEADER, "Thanks."))])
    assert (alone, num_alone) == (pytest.approx(short), num_short)


def test_a_mail_without_line_ends_is_judged_too(scorer, model):
    ((loss, judged),) = scorer.log_probabilities([("Blob", (*HEADER, "x7Q" * 20_000))])
    assert loss < 0 < judged <= num_positions(model)


@pytest.mark.parametrize("room", [600, 400, 200])
def test_a_mail_with_long_headers_has_room_all_the_same(scorer, model, room):
    """The subject and both senders have hundreds of characters of which each is a token, or more."""
    long = "日本語の件名" * 60
    prompt = scorer.prompt(
        long,
        [(long, HEADER[1], "An earlier mail.")],
        (long, HEADER[1], "Which disk is it?\n" * 50),
        long,
        HEADER[1],
        max_new_tokens=num_positions(model) - room,
    )
    assert prompt.num_sources == 0
    assert room // 4 < len(prompt.ids) <= room
