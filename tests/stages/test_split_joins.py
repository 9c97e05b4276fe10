"""Threads that grow or are joined: what is linked, and what is left out of the scores."""

from __future__ import annotations

from pathlib import Path

from splitting import chunks, mail, rows, split, threads_by_split

from jobs.assignments.archive import Archive
from jobs.contracts.records import short_digest
from jobs.intake.placing import thread_id_of
from jobs.intake.reading import read_data


def test_a_later_import_is_one_window_whatever_its_dates(archive: Archive, tmp_path: Path) -> None:
    """A week that ends in Monday's small hours, a date in the future, an outage of weeks: all of it is new."""
    first = [mail(f"a{number}@x", day=f"2024-01-{number:02d}") for number in range(1, 15)]
    split(archive, first, tmp_path, window_period="week", cycle="w1")
    assert sorted({row.window_idx for row in rows(archive)}) == [0, 1]
    later = [mail(f"b{number}@x", day=f"2024-01-{number:02d}") for number in range(15, 30)]
    later += [mail("future@x", day="2037-05-01"), mail("past@x", day="2019-05-01")]
    result = split(archive, later, tmp_path, window_period="week", cycle="w2")
    assert (result["num_windows"], result["num_new"], result["window_idx"]) == (1, 17, 2)


def test_late_mail_goes_into_the_newest_window(archive: Archive, tmp_path: Path) -> None:
    split(archive, [mail("a@x", day="2024-02-10")], tmp_path, window_period="week")
    split(archive, [mail("c@x", day="2024-02-20"), mail("b@x", day="2024-01-03")], tmp_path, window_period="week")
    assert [(row.window_idx, len(row.messages)) for row in rows(archive)] == [(0, 1), (1, 1), (1, 1)]
    split(archive, [mail("d@x", day="2024-01-02")], tmp_path, window_period="week")
    assert rows(archive)[-1].window_idx == 2


def test_a_growing_thread_goes_on_where_it_ended(archive: Archive, tmp_path: Path) -> None:
    split(archive, [mail("a@x", body="one two three")], tmp_path, window_overlap=1)
    split(archive, [mail("b@x", references=("a@x",), hour=10, body="four five")], tmp_path, window_overlap=1)
    first, second = chunks(archive)
    assert [first["chunk_id"], second["chunk_id"]] == [f"{thread_id_of('a@x')}_window_{k}" for k in (0, 1)]
    shown = [
        (one["message_id"], one["context"], second["text"][one["start"] : one["end"]]) for one in second["messages"]
    ]
    assert shown == [("a@x", True, "one two three"), ("b@x", False, "four five")]
    assert second["subject"] == first["subject"] == "plan"
    assert (second["num_target_tokens"], second["sender"]) == (2, "ann@example.org")


def test_a_mail_before_its_parent_shares_its_thread(archive: Archive, tmp_path: Path) -> None:
    split(archive, [mail("b@x", references=("a@x",), hour=10)], tmp_path)
    split(archive, [mail("a@x")], tmp_path)
    split(archive, [mail("c@x", references=("a@x",), hour=12)], tmp_path)
    assert {row.thread_id for row in rows(archive)} == {thread_id_of("a@x")}


def test_a_mail_that_joins_two_threads_moves_neither(archive: Archive, tmp_path: Path) -> None:
    roots = threads_by_split()
    train, val = roots["train"][0], roots["val"][0]
    split(archive, [mail(train), mail(val, subject="other")], tmp_path)
    before = rows(archive)
    split(archive, [mail("join@x", references=(train, val), hour=12)], tmp_path)
    assert rows(archive)[:2] == before
    joined = rows(archive)[2]
    assert joined.thread_id == thread_id_of(val)  # its nearest known ancestor's
    (link,) = read_data(archive, "links")
    assert link == {
        "message": short_digest("join@x"),
        "thread_id": thread_id_of(val),
        "other_thread_id": thread_id_of(train),
        "window_idx": 1,
    }
    (exclusion,) = read_data(archive, "exclusions")
    assert (exclusion["kind"], exclusion["id"], exclusion["reason"]) == ("thread", thread_id_of(val), "joined")
    assert (exclusion["other"], exclusion["window_idx"]) == (thread_id_of(train), 1)


def test_a_thread_joined_to_train_through_another_leaves_the_scores_too(archive: Archive, tmp_path: Path) -> None:
    roots = threads_by_split()
    train, val, test = roots["train"][0], roots["val"][0], roots["test"][0]
    split(archive, [mail(train), mail(val), mail(test)], tmp_path)
    split(archive, [mail("join1@x", references=(val, test), hour=12)], tmp_path)
    assert list(read_data(archive, "exclusions")) == []  # neither is trained on
    split(archive, [mail("join2@x", references=(train, val), hour=13)], tmp_path)
    found = [(one["id"], one["other"], one["window_idx"]) for one in read_data(archive, "exclusions")]
    assert sorted(found) == sorted((thread_id_of(one), thread_id_of(train), 2) for one in (val, test))


def test_two_train_threads_that_are_joined_leave_the_scores_alone(archive: Archive, tmp_path: Path) -> None:
    one, other, *_ = threads_by_split()["train"]
    split(archive, [mail(one), mail(other)], tmp_path)
    split(archive, [mail("join@x", references=(one, other), hour=12)], tmp_path)
    assert len(list(read_data(archive, "links"))) == 1
    assert list(read_data(archive, "exclusions")) == []
