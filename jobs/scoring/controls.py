"""Whether sources help a model at all: its score with the true ones beside random ones and none. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jobs.contracts.records import Json
from jobs.scoring.intervals import Interval, paired_interval, ratio_interval
from jobs.scoring.questions import Question, drawn
from jobs.scoring.results import CONFIDENCE, rounded, rounded_bounds

MAX_QUESTIONS = 64
"""Controls are asked of one checkpoint, so many questions at most: three answers each."""
OTHERS = ("random", "none")


def controlled(questions: Sequence[Question], num_true: Sequence[int], seed: int) -> list[int]:
    """Places of the questions that controls are asked for: those with true sources, drawn by hash."""
    places = [place for place, num in enumerate(num_true) if num]
    places.sort(key=lambda place: drawn(seed, "control", questions[place].target.message_id))
    return sorted(places[:MAX_QUESTIONS])


def compared(model: str, questions: Sequence[Question], scores: Mapping[str, Sequence[float]]) -> Json:
    """The controls as eval_results.json has them.

    `scores` are of the same questions with `true`, `retrieved`, `random` sources and `none`. Retrieval is
    informative for the model where true sources score higher than random ones and than none, each beyond
    the interval of its difference.
    """
    threads = sorted({question.thread_id for question in questions})
    place = {thread: number for number, thread in enumerate(threads)}
    sizes = [0.0] * len(threads)
    sums = {name: [0.0] * len(threads) for name in scores}
    for number, question in enumerate(questions):
        sizes[place[question.thread_id]] += 1
        for name, values in scores.items():
            sums[name][place[question.thread_id]] += values[number]
    gains = {name: paired_interval(sums["true"], sums[name], sizes, CONFIDENCE) for name in OTHERS}
    return {
        "model": model,
        "num_questions": len(questions),
        "num_threads": len(threads),
        "scores": {name: _as_json(ratio_interval(sums[name], sizes, CONFIDENCE), is_share=True) for name in scores},
        "gains": {f"true - {name}": _as_json(gain) for name, gain in gains.items()},
        "is_informative": all(gain.low > 0 for gain in gains.values()),
    }


def _as_json(interval: Interval, *, is_share: bool = False) -> Json:
    return {"estimate": rounded(interval.estimate), "interval": rounded_bounds(interval, is_share=is_share)}
