"""Sources for questions: what is retrieved; as controls, true and random ones, and shuffled relevance. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jobs.contracts.errors import UsageError
from jobs.contracts.records import short_digest
from jobs.mail.quoting import own_text
from jobs.retrieval.passages import joined
from jobs.retrieval.query import Hit, Mode, Passage, Query
from jobs.scoring.questions import Question, Questions, drawn, random_sources


class Searchable(Protocol):
    """An index, such as `jobs.ml.vector_index.Index`."""

    def search(self, queries: Sequence[Query], *, k: int, mode: Mode = "hybrid") -> list[list[Hit]]:
        """The best passages for each query, best first."""

    def passage(self, passage_id: str) -> Passage:
        """The passage of that id; UsageError where there is none."""


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What the index found for every question, best first."""

    hits: list[list[Hit]]

    def recall(self, questions: Sequence[Question], k: int) -> list[float | None]:
        """Of each question, the share of what is relevant among the first k passages; see `recall_of`."""
        return [
            recall_of(question.relevant, hits, k) if question.relevant else None
            for question, hits in zip(questions, self.hits, strict=True)
        ]

    def shuffled_recall(self, questions: Sequence[Question], k: int, seed: int) -> list[float | None]:
        """The same with what is relevant to another question in place of what is relevant: what chance would give.

        The other question is an earlier one of another thread, so that all of it could have been found. None for
        a question before which there was none.
        """
        asked = [question for question in questions if question.relevant]
        found: list[float | None] = []
        for question, hits in zip(questions, self.hits, strict=True):
            others = [
                one for one in asked if one.thread_id != question.thread_id and one.target.date <= question.target.date
            ]
            if not question.relevant or not others:
                found.append(None)
                continue
            key = question.target.message_id
            other = min(others, key=lambda one: drawn(seed, "shuffled", key, one.target.message_id))
            found.append(recall_of(other.relevant, hits, k))
        return found


def recall_of(relevant: Sequence[str], hits: Sequence[Hit], k: int) -> float:
    """How many of the relevant mails have a passage among the first k, over how many could have: min(k, relevant)."""
    found = {hit.message_id for hit in hits[:k]}.intersection(relevant)
    return len(found) / min(k, len(relevant))


def query_of(question: Question) -> Query:
    """What the index is asked: subject and own words of the mail that was answered. Only earlier mail may be found."""
    text = joined(question.answered.subject, own_text(question.answered.text))
    return Query(text, before=question.target.date, exclude=question.hidden)


def retrieve(index: Searchable, questions: Sequence[Question], *, k: int, mode: Mode = "hybrid") -> Retrieved:
    """The best k passages for each question; none for one that says nothing."""
    queries = [query_of(question) for question in questions]
    told = [number for number, query in enumerate(queries) if query.text.strip()]
    hits: list[list[Hit]] = [[] for _ in questions]
    for number, found in zip(told, index.search([queries[one] for one in told], k=k, mode=mode), strict=True):
        hits[number] = found
    return Retrieved(hits)


def true_sources(index: Searchable, question: Question, k: int) -> list[Passage]:
    """The first k passages of what is relevant, the latest mail first."""
    passages: list[Passage] = []
    for message_id in question.relevant:
        passages += _passages_of(index, message_id, k - len(passages))
        if len(passages) == k:
            break
    return passages


def random_passages(index: Searchable, question: Question, questions: Questions, num: int, seed: int) -> list[Passage]:
    """The first passages of so many earlier mails that have nothing to do with the question, or of all there are."""
    passages: list[Passage] = []
    for message_id in random_sources(question, questions.pool, 2 * num, seed):
        if len(passages) < num:
            passages += _passages_of(index, message_id, 1)
    return passages


def _passages_of(index: Searchable, message_id: str, most: int) -> list[Passage]:
    """A mail's first passages; none where it is not in the index (any more)."""
    found: list[Passage] = []
    try:
        while len(found) < most:
            found.append(index.passage(f"{short_digest(message_id)}#{len(found)}"))
    except UsageError:  # there is no further one
        pass
    return found
