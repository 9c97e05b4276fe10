"""Simulated cycles through the real selection, ladder and gate: how often chance is promoted, and how often a gain.

    python tests/selection/simulation.py          prints the table of docs/selection.md

Threads are as long as those of linux-raid, second half of 2019 (345 threads: median 265 tokens, standard
deviation of the logarithm 1.37, from 29 to 7,385 tokens between the 5th and the 100th percentile). What an
adapter gains on a thread, in nats per token, varies from thread to thread by SPREAD, and the more the shorter
the thread; the same threads please all checkpoints of a training alike, and those of another training a little
less. RAG accuracy, token F1, has one to three questions in each thread: those without any are no evidence for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from jobs.selection.decision import Decision, decide
from jobs.selection.evaluation import Evaluation, Scored, ValThreads
from jobs.selection.gate import judge
from jobs.selection.rules import Rules

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOG_MEDIAN, LOG_SPREAD = np.log(265), 1.37
SPREAD = 0.08
"""Standard deviation of a thread's gain, nats per token, for a thread of 265 tokens."""
RAG_SPREAD = 0.10
"""Standard deviation of a thread's gain in token F1."""
SHARED_BY_TRAINING, SHARED_BY_CYCLE = 0.9, 0.6
"""Correlation of two checkpoints of one training, and of two trainings of one cycle, in what threads they please."""
NUM_CHECKPOINTS = 6
OLD_SHARE = 0.8
"""Of val threads, begun before this week."""


@dataclass(frozen=True)
class Gain:
    """What a candidate really is better by, in the mean over threads."""

    nats: float = 0.0
    rag: float = 0.0


NONE = Gain()


class Cycle:
    """One cycle: an incumbent, and as many trainings as are asked for."""

    def __init__(self, seed: int, num_gate_threads: int, gain: Gain) -> None:
        self._random = np.random.default_rng([seed, num_gate_threads])
        num = 2 * num_gate_threads
        tokens = np.clip(np.exp(self._random.normal(LOG_MEDIAN, LOG_SPREAD, num)), 20, 8000).round()
        self.threads = ValThreads(
            tuple(str(one) for one in range(num)),
            tokens,
            self._random.choice([1.0, 2.0, 3.0], num, p=[0.6, 0.3, 0.1]),
            np.where(np.arange(num) % num_gate_threads < OLD_SHARE * num_gate_threads, 0, 1),
            np.arange(num) < num_gate_threads,
        )
        self._gain = gain
        self._scale = SPREAD * np.sqrt(0.5 + 0.5 * 265 / tokens)
        self._incumbent = self._random.normal(3.0, 0.4, num)
        self._incumbent_rag = self._random.beta(2, 6, num)
        self._shared = self._random.normal(size=(2, num))
        self.baseline = self._scored("incumbent", 0, np.zeros((2, num)), NONE)
        self.candidates: list[Scored] = []

    def train(self) -> Evaluation:
        """One more attempt; the evaluation of all so far."""
        attempt = len(self.candidates) // NUM_CHECKPOINTS
        own = self._mixed(self._shared, SHARED_BY_CYCLE / SHARED_BY_TRAINING)
        for step in range(NUM_CHECKPOINTS):
            pleased = self._mixed(own, SHARED_BY_TRAINING)
            self.candidates.append(self._scored(f"step_{step}", attempt, pleased, self._gain))
        return Evaluation(tuple(self.candidates), self.baseline, self.threads, attempt + 1, 5, 1, has_incumbent=True)

    def _mixed(self, shared: NDArray[np.float64], correlation: float) -> NDArray[np.float64]:
        fresh = self._random.normal(size=shared.shape)
        mixed: NDArray[np.float64] = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * fresh
        return mixed

    def _scored(self, path: str, attempt: int, pleased: NDArray[np.float64], gain: Gain) -> Scored:
        loss = (self._incumbent - self._scale * pleased[0] - gain.nats) * self.threads.num_tokens
        rag = (self._incumbent_rag + RAG_SPREAD * pleased[1] + gain.rag) * self.threads.num_questions
        return Scored(path, attempt, loss=loss, rag=rag)


def run_cycle(seed: int, num_gate_threads: int, gain: Gain, rules: Rules) -> tuple[Decision, Evaluation]:
    """A cycle to its end: it trains again as long as the decision says so."""
    cycle = Cycle(seed, num_gate_threads, gain)
    decision = decide(evaluation := cycle.train(), rules)
    while decision.outcome == "Retrain":
        decision = decide(evaluation := cycle.train(), rules)
    return decision, evaluation


def promoted_share(num_gate_threads: int, gain: Gain, rules: Rules, num_cycles: int = 1000) -> float:
    """How many of so many seeded cycles promote."""
    outcomes = (run_cycle(seed, num_gate_threads, gain, rules)[0].outcome for seed in range(num_cycles))
    return Counter(outcomes)["Promote"] / num_cycles


def promoted_by_the_choosing_half(num_gate_threads: int, rules: Rules, num_cycles: int = 1000) -> float:
    """Null cycles that a gate would promote that looks at the threads which chose the winner."""
    promoted = 0
    for seed in range(num_cycles):
        decision, evaluation = run_cycle(seed, num_gate_threads, NONE, replace(rules, max_retrain_attempts=0))
        assert evaluation.threads is not None
        assert evaluation.baseline is not None
        assert decision.winner is not None
        same = replace(evaluation, threads=replace(evaluation.threads, gates=~evaluation.threads.gates))
        gate = judge(same, decision.winner.scored, evaluation.baseline, decision.rules)
        promoted += gate.gain.low > 0 and not gate.worse
    return promoted / num_cycles


LOSS, WEIGHTED = Rules("LowestLoss", min_threads=2), Rules("Weighted", min_threads=2)
REAL = {"LowestLoss": Gain(nats=0.08), "Weighted": Gain(nats=0.08, rag=0.10)}
"""The stated real gain: one standard deviation of a thread's."""


def table(sizes: tuple[int, ...], num_cycles: int) -> Iterator[str]:
    """Lines of Markdown."""
    yield "| threads that judge | strategy | nulls promoted | gated by the choosing half | real gains promoted |"
    yield "|---|---|---|---|---|"
    for size in sizes:
        for rules in (LOSS, WEIGHTED):
            null = promoted_share(size, NONE, rules, num_cycles)
            same = promoted_by_the_choosing_half(size, rules, num_cycles)
            real = promoted_share(size, REAL[rules.strategy], rules, num_cycles)
            yield f"| {size} | {rules.strategy} | {null:.1%} | {same:.1%} | {real:.1%} |"


if __name__ == "__main__":
    for line in table((5, 8, 10, 12, 15, 20, 30, 60), 1000):
        print(line, flush=True)  # noqa: T201
