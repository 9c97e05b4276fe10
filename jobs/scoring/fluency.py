"""How much a generated text reads like text: likely word by word, and not the same words over and over. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"\w+|[^\w\s]")
_REPEATED = 4
"""Length, in words, of what counts as said again."""


def fluency(log_probability: float, num_tokens: int, text: str) -> float:
    """Geometric mean of the tokens' probabilities under the bare base model × share of the text that is not repetition.

    Between 0 and 1; more is better. `log_probability` is the sum over the text's tokens (nats). The first factor
    alone would praise a loop: models find what they repeat ever more likely (Holtzman et al. 2020, arXiv
    1904.09751). 0 for an empty text. People's own mails do not reach 1, so theirs is reported beside it.
    """
    if not num_tokens:
        return 0.0
    return math.exp(min(0.0, log_probability / num_tokens)) * (1 - repetition(text))


def repetition(text: str) -> float:
    """Share of a text's 4-grams of words and signs that stood in it before; 0 for a text with none."""
    grams = _grams(text, _REPEATED)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct_2(texts: Iterable[str]) -> float | None:
    """Different word pairs over all pairs of all texts (Li et al. 2016, arXiv 1510.03055); None without a pair.

    Low where all answers sound alike. It falls with the amount of text: compare it over the same questions.
    """
    pairs = [pair for text in texts for pair in _grams(text, 2)]
    return len(set(pairs)) / len(pairs) if pairs else None


def _grams(text: str, size: int) -> list[tuple[str, ...]]:
    words: Sequence[str] = _WORD.findall(text.lower())
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
