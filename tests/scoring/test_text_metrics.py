"""Text metrics, each against what is worked out by hand."""

from __future__ import annotations

import math

import pytest
from rouge_score.rouge_scorer import RougeScorer

from jobs.scoring import fluency
from jobs.scoring import text_metrics as metrics

ANSWER = "The cat sat on the mat."
REFERENCE = "A cat sat on my mat!"


def test_normalisation_is_squads() -> None:
    assert metrics.normalised_tokens("The CAT, an  owl & a\ntheatre's end.") == ["cat", "owl", "theatres", "end"]


def test_token_f1_and_recall_by_hand() -> None:
    # cat sat on mat | cat sat on my mat: 4 in common of 4 and 5.
    assert metrics.token_f1(ANSWER, REFERENCE) == pytest.approx(8 / 9)
    assert metrics.token_recall(ANSWER, REFERENCE) == pytest.approx(4 / 5)
    assert metrics.token_recall(REFERENCE, ANSWER) == 1


def test_tokens_count_as_often_as_they_stand() -> None:
    assert metrics.token_f1("no no no yes", "no yes yes") == pytest.approx(2 * 2 / 7)
    assert metrics.k_precision("no no no yes", ["no", "yes maybe"]) == pytest.approx(2 / 4)


def test_empty_texts() -> None:
    assert metrics.token_f1("", "") == metrics.token_f1("the", "a") == 1
    assert metrics.token_f1("", "cat") == metrics.token_f1("cat", "") == 0
    assert metrics.k_precision("", ["cat"]) == metrics.k_precision("cat", []) == 0
    assert metrics.bleu("", "cat") == metrics.rouge_l("", "cat") == 0
    assert metrics.corpus_bleu([], []) is None


def test_exact_match() -> None:
    assert metrics.exact_match("The cat!", "cat") == 1
    assert metrics.exact_match("cat", "cats") == 0


def test_sentence_bleu_by_hand() -> None:
    # the cat sat on the mat | the cat sat on a mat: 5/6 words, 3/5 pairs, 2/4 triples, 1/3 fours, equally long.
    expected = (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4)
    assert metrics.bleu("the cat sat on the mat", "the cat sat on a mat") == pytest.approx(expected)


def test_short_answers_have_a_bleu() -> None:
    # Two words have one pair and no more: orders 1 and 2 alone count; half as long as the reference.
    assert metrics.bleu("cat sat", "cat sat on mats") == pytest.approx(math.exp(1 - 4 / 2))


def test_corpus_bleu_by_hand() -> None:
    # Counts are added before they are divided: 4 + 4 words of which 4 + 2 match, and so on.
    answers, references = ["a b c d", "a b e f"], ["a b c d", "a b c d"]
    expected = (6 / 8 * 4 / 6 * 2 / 4 * 1 / 2) ** (1 / 4)
    assert metrics.corpus_bleu(answers, references) == pytest.approx(expected)


def test_the_signature_says_effective_order() -> None:
    assert "eff:yes|tok:13a|smooth:exp" in metrics.bleu_signature()


def test_rouge_l_by_hand() -> None:
    # Longest common subsequence of "police killed the gunman" and "police kill the gunman": 3 of 4 and 4.
    assert metrics.rouge_l("police killed the gunman", "police kill the gunman") == pytest.approx(3 / 4)
    # "the gunman kill police": the gunman, 2 of 4.
    assert metrics.rouge_l("the gunman kill police", "police kill the gunman") == pytest.approx(2 / 4)


def test_rouge_l_is_rouge_scores_own_on_ascii_and_knows_other_letters() -> None:
    own = RougeScorer(["rougeL"])
    for answer in ("Re-shape raid_5 (v2)", "the gunman"):
        assert metrics.rouge_l(answer, "raid 5: re-shape the v2") == pytest.approx(
            own.score("raid 5: re-shape the v2", answer)["rougeL"].fmeasure
        )
    assert metrics.rouge_l("Grüße aus Köln", "grüße aus köln") == 1


def test_fluency_by_hand() -> None:
    assert fluency.fluency(4 * math.log(0.5), 4, "one two three four") == pytest.approx(0.5)
    # 8 words have five 4-grams; of "a b c d a b c d" one stood before.
    assert fluency.repetition("a b c d a b c d") == pytest.approx(1 / 5)
    assert fluency.fluency(8 * math.log(0.5), 8, "a b c d a b c d") == pytest.approx(0.5 * 4 / 5)
    assert fluency.fluency(0.0, 0, "") == 0


def test_a_loop_is_not_fluent_however_likely() -> None:
    loop, mail = "yes and " * 40, "Thanks, the array is up again since Monday."
    assert fluency.fluency(-0.01 * 80, 80, loop) < 0.1 < fluency.fluency(-1.5 * 10, 10, mail)


def test_distinct_2_over_all_texts() -> None:
    assert fluency.distinct_2(["a b c", "a b"]) == pytest.approx(2 / 3)
    assert fluency.distinct_2(["a", ""]) is None
