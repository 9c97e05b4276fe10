"""What one adapter's losses and answers come to: an entry of eval_results.json. Pure.

Losses are in nats, and every mean is over tokens or questions, never over means; numbers keep nine digits, so
that the same evaluation gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from jobs.contracts.records import Json, Split
from jobs.scoring import text_metrics
from jobs.scoring.fluency import distinct_2, fluency, repetition
from jobs.scoring.intervals import Interval, ratio_interval
from jobs.scoring.questions import Question

if TYPE_CHECKING:
    from numpy.typing import NDArray

Sums: TypeAlias = "NDArray[np.float64]"
CONFIDENCE = 0.95
"""Of all intervals in eval_results.json."""
_DIGITS = 9
_MAX_LOSS = 700.0
"""Nats per token beyond which a perplexity is no number any more."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A chunk of val or test as it is scored."""

    chunk_id: str
    thread_id: str
    window_idx: int
    """Its own window, and so that of every message whose text is a target in it."""
    num_tokens: int
    """Target tokens that count."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote, and what stands beside it."""

    text: str
    sources: tuple[str, ...]
    """Texts that it was given."""
    log_probability: float = 0.0
    """Of the text under the bare base model, in nats."""
    num_tokens: int = 0


class Threads:
    """The threads of a split that something is measured on, in the order of their ids."""

    def __init__(self, chunks: Sequence[Scored], questions: Sequence[Question] = ()) -> None:
        firsts: dict[str, int] = {}
        for chunk in chunks:
            if chunk.num_tokens:
                firsts[chunk.thread_id] = min(chunk.window_idx, firsts.get(chunk.thread_id, chunk.window_idx))
        self.ids = sorted(firsts)
        self._place = {thread: number for number, thread in enumerate(self.ids)}
        self.window_idx = [firsts[thread] for thread in self.ids]
        self.chunks = [chunk for chunk in chunks if chunk.num_tokens]
        self.questions = [question for question in questions if question.thread_id in self._place]
        self.num_tokens = self.by_chunk([chunk.num_tokens for chunk in self.chunks])
        self.num_questions = self.by_question([1] * len(self.questions))

    def by_chunk(self, values: Sequence[float]) -> Sums:
        """Values of the chunks that count, added up by thread."""
        return self._added([chunk.thread_id for chunk in self.chunks], values)

    def by_question(self, values: Sequence[float], asked: Sequence[Question] | None = None) -> Sums:
        """Values of the questions, or of some of them, added up by thread."""
        return self._added([one.thread_id for one in (self.questions if asked is None else asked)], values)

    def _added(self, threads: Sequence[str], values: Sequence[float]) -> Sums:
        places = [self._place[thread] for thread in threads]
        sums = np.zeros(len(self.ids))
        np.add.at(sums, places, values)
        return sums

    def as_json(self) -> Json:
        """As eval_results.json lists them."""
        return {
            "threads": self.ids,
            "num_tokens": self.num_tokens.astype(int).tolist(),
            "window_idx": self.window_idx,
            "num_questions": self.num_questions.astype(int).tolist(),
        }

    def windows(self) -> dict[int, set[str]]:
        """By window, the threads with a message of it."""
        found: dict[int, set[str]] = {}
        for chunk in self.chunks:
            found.setdefault(chunk.window_idx, set()).add(chunk.thread_id)
        return dict(sorted(found.items()))


def loss_fields(threads: Threads, losses: Sequence[float], split: Split) -> Json:
    """Loss, perplexity and their intervals; nulls where there is no thread. `losses` are sums by chunk that counts."""
    if not threads.ids:
        return _named(split, {"loss": None, "perplexity": None}, {})
    found = ratio_interval(threads.by_chunk(losses), threads.num_tokens, CONFIDENCE)
    fields = {"loss": rounded(found.estimate), "perplexity": rounded(perplexity(found.estimate))}
    bounds = [None if bound is None else rounded(perplexity(bound)) for bound in found.bounds]
    return _named(split, fields, {"loss": rounded_bounds(found), "perplexity": bounds})


def window_sums(threads: Threads, losses: Sequence[float]) -> list[Json]:
    """`val_windows`: by window, the sum of the losses, the tokens and the threads."""
    sums: dict[int, tuple[list[float], list[int]]] = {window: ([], []) for window in threads.windows()}
    for chunk, loss in zip(threads.chunks, losses, strict=True):
        of_window = sums[chunk.window_idx]
        of_window[0].append(loss)
        of_window[1].append(chunk.num_tokens)
    return [
        {
            "window_idx": window,
            "loss": rounded(math.fsum(sums[window][0])),
            "num_tokens": sum(sums[window][1]),
            "num_threads": len(members),
        }
        for window, members in threads.windows().items()
    ]


@dataclass(frozen=True, slots=True)
class _Measure:
    """A score of one answer; the entry's is the mean over questions."""

    name: str
    of: Callable[[Answer, str], float]


_MEASURES = (
    *(_Measure(name, lambda a, r, score=score: score(a.text, r)) for name, score in text_metrics.SCORES.items()),  # type: ignore[misc]
    _Measure("token_recall", lambda a, r: text_metrics.token_recall(a.text, r)),
    _Measure("k_precision", lambda a, _: text_metrics.k_precision(a.text, a.sources)),
    _Measure("fluency", lambda a, _: fluency(a.log_probability, a.num_tokens, a.text)),
    _Measure("repetition", lambda a, _: repetition(a.text)),
)


def answer_fields(
    threads: Threads, answers: Sequence[Answer] | None, references: Sequence[str], *, metric: str, top_k: int
) -> tuple[Json, Json, Sums | None]:
    """Means of every measure over the questions, their intervals, and the sums of the RAG metric by thread.

    Without a question, or where none was asked (None), all is null.
    """
    names = [f"rag_accuracy_at_{top_k}", *(one.name for one in _MEASURES)]
    if not answers:
        nothing = dict.fromkeys([*names, "corpus_bleu", "distinct_2", "num_empty_answers"])
        return nothing, {}, None
    values = {one.name: [one.of(a, r) for a, r in zip(answers, references, strict=True)] for one in _MEASURES}
    sums = {name: threads.by_question(scores) for name, scores in values.items()}
    found = {name: ratio_interval(one, threads.num_questions, CONFIDENCE) for name, one in sums.items()}
    found = {names[0]: found[metric]} | found
    texts = [answer.text for answer in answers]
    fields: Json = {name: rounded(one.estimate) for name, one in found.items()}
    fields["corpus_bleu"] = rounded(text_metrics.corpus_bleu(texts, references))
    fields["distinct_2"] = rounded(distinct_2(texts))
    fields["num_empty_answers"] = sum(not text for text in texts)
    return fields, {name: rounded_bounds(one, is_share=True) for name, one in found.items()}, sums[metric]


def _named(split: Split, fields: Mapping[str, float | None], intervals: Mapping[str, object]) -> Json:
    named: Json = {f"{split}_{name}": value for name, value in fields.items()}
    return named | {"intervals": {f"{split}_{name}": value for name, value in intervals.items()}}


def perplexity(loss: float) -> float:
    """The exponential of a loss per token; infinite where that is no number."""
    return math.exp(loss) if loss < _MAX_LOSS else math.inf


def rounded(value: float | None) -> float | None:
    """A number as it is written down: nine digits; null where it is none."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")


def rounded_sums(values: Sums) -> list[float | None]:
    """Sums by thread, as they are written down."""
    return [rounded(value) for value in values.tolist()]


def rounded_bounds(interval: Interval, *, is_share: bool = False) -> list[float | None]:
    """Low and high as they are written down; those of a share within 0 and 1."""
    bounds = [rounded(value) for value in interval.bounds]
    return [None if one is None else min(1.0, max(0.0, one)) for one in bounds] if is_share else bounds
