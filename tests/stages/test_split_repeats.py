"""Texts of val and test that train mail repeats: they are left out of the scores."""

from __future__ import annotations

from pathlib import Path

from splitting import mail, split, threads_by_split

from jobs.assignments.archive import Archive
from jobs.contracts.records import short_digest
from jobs.intake.reading import read_data
from jobs.mail.near_duplicates import containment, shingles

ROOTS = threads_by_split()
TRAIN, OTHER = ROOTS["train"][:2]
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
