"""Mails cut into passages."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contracts.records import Message, short_digest
from jobs.retrieval.passages import OVERLAP_SHARE, Offsets, cut, embedded_text, spans, text_to_cut
from jobs.retrieval.query import Passage

SENTENCE = "The array came back after a reshape. "


class Words:
    """A token is a word."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.calls = 0

    def offsets(self, texts: list[str]) -> list[Offsets]:
        self.calls += 1
        return [[match.span() for match in re.finditer(r"\w+|[^\w\s]", text)] for text in texts]


def message(text: str, *, subject: str = "plan", message_id: str = "a@x") -> Message:
    return Message(message_id, "ann@x", subject, "2024-01-01T09:00:00Z", [], [], text, "thread_1", "val", 7)


def passages(text: str, budget: int, **fields: str) -> list[Passage]:
    return list(cut([message(text, **fields)], Words(budget)))


def test_a_short_mail_is_one_passage_and_says_whose_it_is() -> None:
    (got,) = passages("Hello there.", 40)
    digest = short_digest("a@x")
    assert got == Passage(
        f"{digest}#0", "a@x", "thread_1", "val", 7, "2024-01-01T09:00:00Z", "ann@x", "plan", "Hello there."
    )
    assert embedded_text(got) == "plan\n\nHello there."


def test_a_long_mail_is_cut_at_its_paragraphs() -> None:
    first, second = "one " * 12 + "end.", "two " * 9 + "end."
    got = passages(f"{first}\n\n{second}", 17)
    assert [one.text for one in got] == [first, second]
    assert [one.passage_id[-2:] for one in got] == ["#0", "#1"]


def test_else_at_sentences_with_a_little_overlap() -> None:
    got = passages((SENTENCE * 12).strip(), 81)  # 8 tokens a sentence, 80 without the subject: ten sentences
    assert [one.text for one in got] == [(SENTENCE * 10).strip(), (SENTENCE * 3).strip()]  # one of them twice


def test_a_word_longer_than_the_limit_is_all_there() -> None:
    """Letters are tokens here: a long run of them has no place to be cut at."""
    offsets = [(place, place + 1) for place in range(100)]
    got = spans("x" * 100, offsets, 30)
    assert got == [(0, 30), (30, 60), (60, 90), (90, 100)]


@given(
    st.lists(st.sampled_from(["word", "end.", "why?", "\n", "\n\n", " ", "a", ", "]), max_size=120).map(" ".join),
    st.integers(2, 30),
)
def test_nothing_is_lost_and_no_passage_is_too_long(text: str, budget: int) -> None:
    words = Words(budget)
    (offsets,) = words.offsets([text])
    got = spans(text, offsets, budget)
    covered = set()
    for start, end in got:
        inside = [one for one in offsets if start <= one[0] and one[1] <= end]
        assert len(inside) <= budget
        covered |= set(inside)
    assert covered == set(offsets)
    for (_, end), (start, _) in pairwise(got):
        assert sum(start <= one[0] and one[1] <= end for one in offsets) <= budget // OVERLAP_SHARE
    assert got == sorted(got)


def test_a_long_subject_leaves_room() -> None:
    (got,) = passages("body", 16, subject="a b c d e f g h")
    assert got.subject == "a b c d"


def test_a_mail_without_text_is_found_by_its_subject() -> None:
    (got,) = passages("", 16)
    assert (got.text, embedded_text(got)) == ("", "plan")


def test_what_a_mail_quotes_is_not_its_own() -> None:
    text = "On Monday Bob wrote:\n> we broke it\n> badly\n\nNo, it was me.\n"
    assert text_to_cut(message(text)) == "No, it was me."
    assert text_to_cut(message("> only\n> this")) == "> only\n> this"


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_a_mail_s_passages_do_not_depend_on_its_neighbours(batch: int) -> None:
    mails = [message(SENTENCE * (number % 5), message_id=f"{number}@x") for number in range(7)]
    alone = [one for mail in mails for one in cut([mail], Words(20))]
    assert list(cut(mails, Words(20), batch)) == alone
