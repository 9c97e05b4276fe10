"""The metric of a strategy on some of the val threads, and what each thread contributes to it. Pure.

A metric is made of sums over threads. Beside its value stands its influence by thread (the linear part
of its error, the delta method), from which intervals of any metric, and of differences, follow alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jobs.contracts.errors import InputError
from jobs.contracts.records import Json
from jobs.scoring.intervals import Interval, interval_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

Half = Literal["choose", "gate"]


@dataclass(frozen=True, slots=True)
class ValThreads:
    """The val threads of an evaluation."""

    threads: tuple[str, ...]
    num_tokens: NDArray[np.float64]
    num_questions: NDArray[np.float64]
    window_idx: NDArray[np.int64]
    """Of each thread's first chunk."""

    @classmethod
    def of(cls, results: Json) -> ValThreads:
        """Those that eval_results.json lists."""
        val = results["val"]
        return cls(
            tuple(val["threads"]),
            np.asarray(val["num_tokens"], np.float64),
            np.asarray(val["num_questions"], np.float64),
            np.asarray(val["window_idx"], np.int64),
        )

    def half(self, half: Half) -> NDArray[np.bool_]:
        """Which threads choose among checkpoints, or gate the winner: by a hash of the thread, for ever."""
        return np.array([half_of(thread) == half for thread in self.threads], np.bool_)


def half_of(thread_id: str) -> Half:
    """The half that a val thread belongs to."""
    return "choose" if hashlib.sha256(f"half {thread_id}".encode()).digest()[0] % 2 else "gate"


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric, signed so that more is better, and its influence by thread."""

    value: float
    influences: NDArray[np.float64]

    def __add__(self, other: Measure) -> Measure:
        return Measure(self.value + other.value, self.influences + other.influences)

    def times(self, factor: float) -> Measure:
        """A multiple of it."""
        return Measure(self.value * factor, self.influences * factor)


@dataclass(frozen=True, slots=True)
class Sums:
    """What was measured of one adapter, by thread."""

    loss: NDArray[np.float64]
    rag: NDArray[np.float64]
    recall: float | None = None

    @classmethod
    def of(cls, entry: Json, threads: ValThreads, recall_name: str) -> Sums:
        """Those of an entry of eval_results.json; InputError where they do not fit the threads."""
        by_thread: dict[str, Any] = entry.get("val_threads") or {}
        loss, rag = (np.asarray(by_thread.get(name, ()), np.float64) for name in ("loss", "rag"))
        if len(loss) != len(threads.threads) or len(rag) not in (0, len(loss)):
            raise InputError(
                f"{entry.get('path')}: {len(loss)} losses for {len(threads.threads)} val threads", where="eval_results"
            )
        return cls(loss, rag if len(rag) else np.zeros_like(loss), entry.get(recall_name))


def negative_loss(sums: Sums, threads: ValThreads, chosen: NDArray[np.bool_]) -> Measure:
    """Minus the val loss per token."""
    return _mean(-sums.loss[chosen], threads.num_tokens[chosen])


def inverse_perplexity(sums: Sums, threads: ValThreads, chosen: NDArray[np.bool_]) -> Measure:
    """1 / perplexity, that is exp(-loss)."""
    loss = negative_loss(sums, threads, chosen)
    value = float(np.exp(loss.value))
    return Measure(value, value * loss.influences)


def rag_accuracy(sums: Sums, threads: ValThreads, chosen: NDArray[np.bool_]) -> Measure | None:
    """The mean of the RAG metric over questions; None where there is no question."""
    if not threads.num_questions[chosen].any():
        return None
    return _mean(sums.rag[chosen], threads.num_questions[chosen])


def weighted(
    sums: Sums, threads: ValThreads, chosen: NDArray[np.bool_], weights: Sequence[tuple[str, float]]
) -> Measure:
    """The weighted sum of 1 / perplexity (`ppl`), RAG accuracy (`rag`) and retrieval recall (`recall`).

    What was not measured falls out. Recall is the same for all adapters: it adds a constant.
    """
    total = Measure(0.0, np.zeros(int(chosen.sum())))
    for name, weight in weights:
        if name == "ppl":
            total += inverse_perplexity(sums, threads, chosen).times(weight)
        elif name == "rag" and (rag := rag_accuracy(sums, threads, chosen)) is not None:
            total += rag.times(weight)
        elif name == "recall" and sums.recall is not None:
            total += Measure(sums.recall * weight, np.zeros(int(chosen.sum())))
    return total


def relative_gain(candidate: Measure, incumbent: Measure, confidence: float) -> Interval:
    """(candidate - incumbent) / |incumbent|, with its interval; an incumbent of 0 is not divided by."""
    scale = abs(incumbent.value) or 1.0
    gain = (candidate.value - incumbent.value) / scale
    sign = 1.0 if incumbent.value >= 0 else -1.0
    # d(c - b)/|b| = dc/|b| - db/|b| - (c - b)/|b| * sign(b) db/|b|
    influences = (candidate.influences - incumbent.influences * (1.0 + sign * gain)) / scale
    return interval_of(gain, influences, confidence)


def difference(candidate: Measure, incumbent: Measure, confidence: float) -> Interval:
    """Candidate - incumbent, with its interval."""
    return interval_of(candidate.value - incumbent.value, candidate.influences - incumbent.influences, confidence)


def _mean(sums: NDArray[np.float64], sizes: NDArray[np.float64]) -> Measure:
    total = sizes.sum()
    if not total:
        raise InputError("no val thread is left to score", where="eval_results")
    value = float(sums.sum() / total)
    return Measure(value, (sums - value * sizes) / total)
