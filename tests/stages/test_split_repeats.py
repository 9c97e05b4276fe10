"""Texts of val and test that train mail repeats or quotes: they are left out of the scores."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splitting import chunks, mail, split, threads_by_split

from jobs.assignments.archive import Archive
from jobs.contracts.records import short_digest
from jobs.intake.reading import read_data
from jobs.mail.near_duplicates import containment, shingles

ROOTS = threads_by_split()
TRAIN, OTHER, THIRD = ROOTS["train"][:3]
VAL, TEST = ROOTS["val"][0], ROOTS["test"][0]
LONG = " ".join(f"word{number}" for number in range(120))


def excluded(archive: Archive) -> list[tuple[str, str, float]]:
    """Who is left out, because of whom, and how much of it stands there."""
    names = {short_digest(one["message_id"]): one["message_id"] for one in read_data(archive, "messages")}
    return [(names[one["id"]], names[one["other"]], one["score"]) for one in read_data(archive, "exclusions")]


def test_a_cross_posted_text_is_masked_in_evaluation(archive: Archive, tmp_path: Path) -> None:
    split(archive, [mail(VAL, body=LONG)], tmp_path)
    assert list(read_data(archive, "exclusions")) == []
    split(archive, [mail(TRAIN, body=LONG + " and more", hour=12)], tmp_path)
    (exclusion,) = read_data(archive, "exclusions")
    assert (exclusion["kind"], exclusion["reason"]) == ("message", "near-duplicate")
    assert (exclusion["window_idx"], exclusion["score"]) == (1, 1)
    assert excluded(archive) == [(VAL, TRAIN, 1)]
    split(archive, [mail(TEST, body="> quoted\nAnd: " + LONG, hour=13)], tmp_path)
    assert [one for one, _, _ in excluded(archive)] == [VAL, TEST]
    assert 0.95 < excluded(archive)[1][2] < 1


def test_the_same_text_on_one_side_is_no_matter(archive: Archive, tmp_path: Path) -> None:
    split(archive, [mail(TRAIN, body=LONG), mail(OTHER, body=LONG)], tmp_path)
    assert excluded(archive) == []


# ---- more than the whole of it


def test_a_text_of_val_that_stands_in_a_longer_one_of_train_is_masked(archive: Archive, tmp_path: Path) -> None:
    """The second version of a patch holds all of the first, with a changelog: they are 0.73 alike."""
    longer = " ".join(f"changed{number}" for number in range(43)) + "\n\n" + LONG
    one, other = shingles(LONG), shingles(longer)
    assert 0.7 < len(one & other) / len(one | other) < 0.75
    split(archive, [mail(VAL, body=LONG), mail(TRAIN, body=longer, hour=12)], tmp_path)
    assert excluded(archive) == [(VAL, TRAIN, 1.0)]


def test_a_text_of_val_that_holds_more_than_one_of_train_stays(archive: Archive, tmp_path: Path) -> None:
    longer = " ".join(f"changed{number}" for number in range(43)) + "\n\n" + LONG
    split(archive, [mail(TRAIN, body=LONG), mail(VAL, body=longer, hour=12)], tmp_path)
    assert containment(shingles(longer), shingles(LONG)) < 0.8
    assert excluded(archive) == []


# ---- quotes that are learnt

LINES = [" ".join(f"word{number}" for number in range(start, start + 9)) for start in range(0, 90, 9)]


def quoting(lines: list[str] = LINES, marks: str = "> ") -> str:
    """An answer that quotes these lines."""
    return "\n".join(["On Monday, Ann wrote:", *(marks + line for line in lines), "", "No, I do not think so."])


def targets(archive: Archive, message_id: str) -> str:
    """What of a mail is learnt."""
    return "".join(
        chunk["text"][one["start"] : one["end"]]
        for chunk in chunks(archive)
        for one in chunk["messages"]
        if one["message_id"] == message_id and not one["context"]
    )


VAL_MAIL = mail(VAL, body="\n".join(LINES))
ORDERS = {
    "at once": [[VAL_MAIL, mail(TRAIN, body=quoting(), hour=12)]],
    "val first": [[VAL_MAIL], [mail(TRAIN, body=quoting(), hour=12)]],
    "train first": [[mail(TRAIN, body=quoting(), hour=12)], [VAL_MAIL]],
}


@pytest.mark.parametrize("imports", ORDERS.values(), ids=ORDERS)
def test_an_answer_of_no_thread_that_quotes_a_mail_of_val(
    archive: Archive, tmp_path: Path, imports: list[list[dict[str, Any]]]
) -> None:
    for mails in imports:
        split(archive, mails, tmp_path)
    assert all(line in targets(archive, TRAIN) for line in LINES)
    assert excluded(archive) == [(VAL, TRAIN, 1.0)]
    (exclusion,) = read_data(archive, "exclusions")
    assert exclusion["window_idx"] == len(imports) - 1


@pytest.mark.parametrize(
    "body",
    [
        "No.\n\n-----Original Message-----\n" + "\n".join(LINES),
        "On Tuesday, Bob wrote:\n> He is wrong. " + "x y z " * 40 + "\n" + quoting(marks="> > "),
        "\n".join(f"> {line}\n\nno {number}\n" for number, line in enumerate(LINES)),
    ],
    ids=["below a separator", "two levels", "line by line"],
)
def test_however_it_is_quoted(archive: Archive, tmp_path: Path, body: str) -> None:
    split(archive, [VAL_MAIL, mail(TRAIN, body=body, hour=12)], tmp_path)
    assert excluded(archive) == [(VAL, TRAIN, 1.0)]


@pytest.mark.parametrize("quotes", ["in-thread", "all", "none"])
def test_quotes_are_compared_where_they_are_kept(archive: Archive, tmp_path: Path, quotes: str) -> None:
    """An answer to a mail that is there has its quotes dropped, or kept, with whatever else it quotes."""
    answer = mail("answer@x", references=(TRAIN,), body=quoting(), hour=12)
    alone = mail(OTHER, body=quoting(LINES[:9]), hour=12)
    to_nowhere = mail("lost@x", references=(THIRD,), body=quoting(), hour=12)
    for mails in ([VAL_MAIL, mail(TRAIN), answer], [alone, to_nowhere]):
        split(archive, mails, tmp_path, quotes=quotes)
    learnt = [one for one in ("answer@x", OTHER, "lost@x") if LINES[0] in targets(archive, one)]
    assert learnt == {"in-thread": [OTHER, "lost@x"], "all": ["answer@x", OTHER, "lost@x"], "none": []}[quotes]
    found = {"in-thread": [(VAL, "lost@x", 1.0)], "all": [(VAL, "answer@x", 1.0)], "none": []}
    assert excluded(archive) == found[quotes]
    num_rows = sum(file.num_rows for file in archive.files("fingerprints"))
    assert num_rows == 1 + len(learnt)  # none of the answers has a text of its own that can be compared


def test_what_a_mail_of_val_quotes_is_nothing_that_it_says(archive: Archive, tmp_path: Path) -> None:
    said = mail(TRAIN, body="\n".join(LINES))
    quoted = mail(VAL, body=quoting() + "\n\n" + " ".join(f"own{number}" for number in range(60)), hour=12)
    again = mail(OTHER, body=quoting(), hour=13)
    split(archive, [said, quoted, again, mail(TEST, body=quoting(), hour=14)], tmp_path)
    assert excluded(archive) == []


@settings(deadline=None, max_examples=20)
@given(
    num_words=st.integers(50, 300),
    width=st.integers(1, 12),
    marks=st.sampled_from([">", "> ", ">> ", "> > > "]),
    before=st.text(st.sampled_from("ab \n"), max_size=60),
    between=st.sampled_from(["", "No.", "Yes, and more.\nAs I said."]),
    at=st.permutations(["val", "train"]),
)
def test_a_mail_of_val_that_is_quoted_whole_is_masked_whatever_stands_around_it(
    tmp_path_factory: Any, num_words: int, width: int, marks: str, before: str, between: str, at: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("quoted")
    archive = Archive.open(str(folder / "archive"))
    words = random.Random(num_words).choices([f"word{number}" for number in range(400)], k=num_words)
    lines = [" ".join(words[start : start + width]) for start in range(0, num_words, width)]
    body = f"{before}\nOn Monday, Ann wrote:\n" + "".join(f"{marks}{line}\n" for line in lines) + f"\n{between}"
    mails = {"val": mail(VAL, body="\n".join(lines)), "train": mail(TRAIN, body=body)}
    for one in at:
        split(archive, [mails[one]], folder)
    assert excluded(archive) == [(VAL, TRAIN, 1.0)]
