"""How near a generated mail is to the one that was really written. All scores lie between 0 and 1; more is better.

BLEU is sacrebleu's, ROUGE-L rouge-score's; exact match and token F1 are those of SQuAD, its normalisation
included: small letters, no punctuation, no English articles.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.bleu import BLEU

Metric = Literal["token_f1", "bleu", "rouge_l", "exact_match"]
METRICS: tuple[Metric, ...] = get_args(Metric)
"""What RAG accuracy may be the mean of."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORD = re.compile(r"[^\W_]+")


def normalised_tokens(text: str) -> list[str]:
    """Words as SQuAD's evaluation compares them (Rajpurkar et al. 2016, its official script)."""
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def exact_match(answer: str, reference: str) -> float:
    """1 where the normalised texts are equal, else 0."""
    return float(normalised_tokens(answer) == normalised_tokens(reference))


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the tokens in common; where a text has none, 1 if neither has."""
    common, num_answer, num_reference = _overlap(answer, reference)
    if not num_answer or not num_reference:
        return float(num_answer == num_reference)
    return 2 * common / (num_answer + num_reference)


def token_recall(answer: str, reference: str) -> float:
    """How much of the reference's tokens the answer has; 1 for a reference without one."""
    common, _, num_reference = _overlap(answer, reference)
    return common / num_reference if num_reference else 1.0


def k_precision(answer: str, sources: Sequence[str]) -> float:
    """How much of the answer's tokens stand in the sources: K-Precision (Adlakha et al. 2023, arXiv 2307.16877).

    It tells whether an answer keeps to what it was given, true or not. 0 for an empty answer.
    """
    common, num_answer, _ = _overlap(answer, "\n".join(sources))
    return common / num_answer if num_answer else 0.0


def _overlap(answer: str, reference: str) -> tuple[int, int, int]:
    """Tokens in common, with their multiplicity, and of each text."""
    ours, theirs = Counter(normalised_tokens(answer)), Counter(normalised_tokens(reference))
    return (ours & theirs).total(), ours.total(), theirs.total()


def bleu(answer: str, reference: str) -> float:
    """Sentence BLEU with effective order: an answer of three words has no 4-gram, and is not 0 for that."""
    return float(_bleu(effective_order=True).sentence_score(answer, [reference]).score) / 100


def corpus_bleu(answers: Sequence[str], references: Sequence[str]) -> float | None:
    """BLEU of all answers together, as papers report it; None without an answer."""
    if not answers:
        return None
    return float(_bleu(effective_order=False).corpus_score(list(answers), [list(references)]).score) / 100


def bleu_signature() -> str:
    """How BLEU was counted, in sacrebleu's words: what must be equal for scores to be comparable."""
    metric = _bleu(effective_order=True)
    metric.sentence_score("x", ["x"])  # it tells only after a score
    return str(metric.get_signature())


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words, without stemming."""
    return float(_rouge().score(reference, answer)["rougeL"].fmeasure)


@lru_cache(maxsize=2)
def _bleu(*, effective_order: bool) -> BLEU:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=effective_order)


@lru_cache(maxsize=1)
def _rouge() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False, tokenizer=_Words())


class _Words:
    """rouge-score's own tokenizer keeps a-z and 0-9 alone; this one is the same on ASCII, and knows other letters."""

    def tokenize(self, text: str) -> list[str]:
        """See rouge_score.tokenizers.Tokenizer."""
        return _WORD.findall(text.lower())


SCORES = {"token_f1": token_f1, "bleu": bleu, "rouge_l": rouge_l, "exact_match": exact_match}
"""By name, what compares an answer with a reference."""
