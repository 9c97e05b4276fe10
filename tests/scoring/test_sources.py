"""Sources: what is asked of an index, recall, and its controls."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from scoring.mails import message, question

from jobs.contracts.errors import UsageError
from jobs.contracts.records import short_digest
from jobs.retrieval.query import Hit, Mode, Passage, Query
from jobs.scoring.questions import Outline, Question, Questions
from jobs.scoring.sources import Retrieved, query_of, random_passages, recall_of, retrieve, true_sources


def hits(*names: str) -> list[Hit]:
    return [Hit(f"{name}#0", name, 1.0) for name in names]


class Shelf:
    """Mails of so many passages, found in the order of their names."""

    def __init__(self, **num_passages: int) -> None:
        self.num_passages = num_passages
        self.asked: list[Query] = []

    def search(self, queries: Sequence[Query], *, k: int, mode: Mode = "hybrid") -> list[list[Hit]]:
        self.asked += queries
        return [hits(*sorted(self.num_passages)[:k]) for _ in queries]

    def passage(self, passage_id: str) -> Passage:
        digest, _, number = passage_id.partition("#")
        for name, num in self.num_passages.items():
            if short_digest(name) == digest and int(number) < num:
                return Passage(
                    passage_id, name, "t", "val", 0, "2024-01-01T00:00:00Z", "a@b.c", "s", f"{name} {number}"
                )
        raise UsageError(f"no such passage: {passage_id}")


def test_recall_is_over_what_could_have_been_found() -> None:
    assert recall_of(("a", "b", "c"), hits("x", "a", "y"), 3) == pytest.approx(1 / 3)
    assert recall_of(("a", "b", "c"), hits("a", "b"), 2) == 1
    assert recall_of(("a",), hits("x", "y", "a"), 2) == 0
    assert recall_of(("a", "b"), hits("a", "a", "b"), 2) == pytest.approx(1 / 2)


def test_a_question_that_refers_to_nothing_has_no_recall() -> None:
    asked = [question("p", relevant=("a",)), question("q")]
    assert Retrieved([hits("a"), hits("a")]).recall(asked, 5) == [1, None]


def test_shuffled_relevance_is_that_of_an_earlier_question_of_another_thread() -> None:
    asked = [
        question("first", thread="s", day=2, relevant=("a",)),
        question("mate", thread="s", day=3, relevant=("c",)),
        question("other", thread="t", day=4, relevant=("b",)),
    ]
    found = Retrieved([hits("a"), hits("c"), hits("b", "a", "c")]).shuffled_recall(asked, 5, seed=1)
    assert found == [None, None, 1]
    assert Retrieved([hits("a"), hits("c"), hits("b")]).shuffled_recall(asked, 5, seed=1) == [None, None, 0]


def test_the_query_is_subject_and_own_words_of_what_was_answered_and_nothing_of_the_answer() -> None:
    answered = message("asked", day=2, subject="Re: disks", text="Which one?\n\n> quoted words\n")
    target = message("reply", day=3, subject="the secret (was: disks)", text="sdb, of course")
    found = query_of(Question("val", target, answered, ()))
    assert found == Query("Re: disks\n\nWhich one?", "2024-01-03T09:00:00Z", frozenset({"asked", "reply"}))


def test_a_question_without_words_finds_nothing() -> None:
    asked = [question("p"), Question("val", message("r", day=3), message("e", subject="", text=""), ()), question("q")]
    shelf = Shelf(a=1)
    found = retrieve(shelf, asked, k=2)
    assert [len(one) for one in found.hits] == [1, 0, 1]
    assert len(shelf.asked) == 2


def test_true_sources_are_the_first_passages_of_what_is_relevant() -> None:
    shelf = Shelf(a=2, b=3)
    asked = question("q", relevant=("a", "gone", "b"))
    assert [one.text for one in true_sources(shelf, asked, 4)] == ["a 0", "a 1", "b 0", "b 1"]
    assert [one.text for one in true_sources(shelf, asked, 1)] == ["a 0"]
    assert true_sources(shelf, question("q"), 4) == []


def test_random_passages_pass_over_mails_that_are_not_in_the_index() -> None:
    pool = [Outline(name, name, "2024-01-01T00:00:00Z") for name in ("a", "b", "gone")]
    found = random_passages(Shelf(a=2, b=3), question("q"), Questions([], pool), 2, seed=1)
    assert {one.text for one in found} == {"a 0", "b 0"}
