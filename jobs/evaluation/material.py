"""What every adapter is scored on alike: chunks, questions, and the sources that were retrieved for these, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from jobs.contracts.records import Json, Split
from jobs.mail.quoting import own_text
from jobs.retrieval.query import MODES, Passage
from jobs.scoring.eval_sets import EvalSet
from jobs.scoring.intervals import ratio_interval
from jobs.scoring.questions import Question, Questions
from jobs.scoring.results import CONFIDENCE, Scored, Threads, rounded, rounded_bounds
from jobs.scoring.sources import Retrieved, Searchable, retrieve
from jobs.scoring.text_metrics import Metric

if TYPE_CHECKING:
    from jobs.ml.encoding import Encoder, Example
    from jobs.ml.evaluating import Mail, Prompt, Scorer

PROMPTED = "hybrid"
"""How the sources that models are given are searched: as in service."""


class Settings(Protocol):
    """What of evaluate's settings is asked for here."""

    @property
    def top_k(self) -> int:
        """Passages that are retrieved for a question."""

    @property
    def max_new_tokens(self) -> int:
        """Tokens of an answer at most."""

    @property
    def rag_metric(self) -> Metric:
        """What RAG accuracy is the mean of."""

    @property
    def seed(self) -> int:
        """Of what is drawn by hash."""


@dataclass(slots=True)
class Material:
    """What is scored of one split."""

    split: Split
    threads: Threads
    examples: list[Example]
    """Of the chunks that count, in their order."""
    top_k: int
    found: dict[str, Retrieved] = field(default_factory=dict)
    """By mode of search, what the index found for the questions; empty where there is no index."""
    sources: list[list[Passage]] = field(default_factory=list)
    """Of each question, what models are given, best first."""
    prompts: list[Prompt] = field(default_factory=list)

    @property
    def questions(self) -> list[Question]:
        """What is asked, by thread and date."""
        return self.threads.questions

    @property
    def references(self) -> list[str]:
        """What was really written, without what it quotes."""
        return [own_text(question.target.text) for question in self.questions]

    def given(self, prompts: Sequence[Prompt], sources: Sequence[Sequence[Passage]]) -> list[tuple[str, ...]]:
        """The texts that had room in the prompts."""
        return [
            tuple(passage.text for passage in some[: prompt.num_sources])
            for prompt, some in zip(prompts, sources, strict=True)
        ]

    def search(self, index: Searchable) -> None:
        """Ask the index every question, in every mode."""
        self.found = {mode: retrieve(index, self.questions, k=self.top_k, mode=mode) for mode in MODES}
        self.sources = [[index.passage(hit.passage_id) for hit in hits] for hits in self.found[PROMPTED].hits]

    def recall(self, seed: int) -> Json | None:
        """Retrieval recall by mode, and with shuffled relevance; null where no index was asked."""
        if not self.found:
            return None
        by_name = {mode: found.recall(self.questions, self.top_k) for mode, found in self.found.items()}
        by_name["shuffled"] = self.found[PROMPTED].shuffled_recall(self.questions, self.top_k, seed)
        return {
            "num_questions": len(self.questions),
            "num_recall_questions": sum(bool(question.relevant) for question in self.questions),
            "recall": {name: self._mean(values) for name, values in by_name.items()},
        }

    def _mean(self, values: Sequence[float | None]) -> Json | None:
        told = [(question, value) for question, value in zip(self.questions, values, strict=True) if value is not None]
        if not told:
            return None
        asked = [question for question, _ in told]
        sums = self.threads.by_question([value for _, value in told], asked)
        found = ratio_interval(sums, self.threads.by_question([1] * len(asked), asked), CONFIDENCE)
        return {
            "estimate": rounded(found.estimate),
            "interval": rounded_bounds(found, is_share=True),
            "num_questions": len(told),
        }


@dataclass(frozen=True, slots=True)
class Work:
    """All that there is to be scored on."""

    window_idx: int
    materials: dict[Split, Material]
    questions: Questions
    index: Searchable | None

    @property
    def val(self) -> Material:
        """What chooses."""
        return self.materials["val"]

    def num_tokens(self, max_new_tokens: int) -> int:
        """How many tokens go through the model for each adapter."""
        read = sum(len(example) for one in self.materials.values() for example in one.examples)
        prompts = [prompt for one in self.materials.values() for prompt in one.prompts]
        return read + sum(len(prompt.ids) + max_new_tokens for prompt in prompts)


def encoded(eval_set: EvalSet, encoder: Encoder) -> list[tuple[Scored, Example]]:
    """The chunks of a set that have a target which counts, as a model reads them."""
    found = []
    for chunk in eval_set.chunks:
        example = encoder.example(chunk, masked=eval_set.masked[chunk.chunk_id])
        if example.num_targets:
            scored = Scored(chunk.chunk_id, chunk.thread_id, chunk.window_idx, example.num_targets)
            found.append((scored, example))
    return found


def prompt_for(scorer: Scorer, question: Question, sources: Sequence[Passage], max_new_tokens: int) -> Prompt:
    """What a model is to go on from: the sources (best first), the mail that is answered, the reply's header."""
    answered, target = question.answered, question.target
    earlier: list[Mail] = [(passage.sender, passage.date, passage.text) for passage in sources]
    asked = (answered.sender, answered.date, answered.text)
    return scorer.prompt(answered.subject, earlier, asked, target.sender, target.date, max_new_tokens=max_new_tokens)
