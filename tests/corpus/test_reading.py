"""Texts by what is asked for: an archive and its plain files give the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from splitting import mail, rows, split

from jobs.assignments.archive import Archive
from jobs.contracts.errors import InputError, MissingInputError, UsageError
from jobs.corpus import Corpus, open_corpus
from jobs.intake.exports import export_all, export_split


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = Archive.open((tmp_path / "archive").as_uri())
    for week in range(3):
        mails = [mail(f"{n}@w{week}", day=f"2024-01-{1 + 7 * week:02d}") for n in range(12)]
        split(archive, mails, tmp_path, incremental=True)
    return archive


@pytest.fixture
def folder(archive: Archive, tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    export_all(archive, folder / "assignments.json")
    for one in ("train", "val", "test"):
        export_split(archive, one, folder / "splits" / f"{one}.json")
    return folder


@pytest.fixture(params=["archive", "files"])
def corpus(request: pytest.FixtureRequest, archive: Archive, folder: Path) -> Corpus:
    if request.param == "archive":
        return open_corpus({}, archive)
    return open_corpus({"assignments": [folder / "assignments.json"]}, None)


def test_chunks_come_in_one_order_whatever_order_was_asked(corpus: Corpus, archive: Archive) -> None:
    every = rows(archive)
    wanted = [row for row in every if row.window_idx != 1][::2]
    found = list(corpus.chunks([row.chunk_id for row in reversed(wanted)]))
    assert found == list(corpus.chunks([row.chunk_id for row in wanted]))
    assert [chunk.window_idx for chunk in found] == sorted(chunk.window_idx for chunk in found)
    expected = {row.chunk_id: (row.split, row.window_idx) for row in wanted}
    assert {chunk.chunk_id: (chunk.split, chunk.window_idx) for chunk in found} == expected
    for chunk in found:
        (message,) = chunk.messages
        assert chunk.text[message.start : message.end] == f"This is the text of {message.message_id}."


def test_messages_up_to_a_window(corpus: Corpus) -> None:
    assert sorted({one.window_idx for one in corpus.messages(upto_window=1)}) == [0, 1]
    assert len(list(corpus.messages())) == 36
    assert {one.message_id for one in corpus.messages(upto_window=0)} == {f"{n}@w0" for n in range(12)}


def test_no_chunk_asked_for_is_none_given(corpus: Corpus) -> None:
    assert list(corpus.chunks([])) == []


def test_a_chunk_that_is_not_there_is_told(corpus: Corpus) -> None:
    with pytest.raises(MissingInputError, match="thread_x_window_0"):
        list(corpus.chunks(["thread_x_window_0"]))


def test_a_text_that_was_deleted_is_told(archive: Archive) -> None:
    row = next(row for row in rows(archive) if row.split == "train" and row.window_idx == 1)
    for key in list(archive.store.list("chunks/000001/")):
        archive.store.delete(key)
    with pytest.raises(MissingInputError, match=row.chunk_id):
        list(open_corpus({}, archive).chunks([row.chunk_id]))


def test_files_that_are_not_named_or_not_right(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="texts of the chunks"):
        next(iter(open_corpus({}, None).chunks(["a_window_0"])))
    with pytest.raises(UsageError, match="decoded mails"):
        next(iter(open_corpus({}, None).messages()))
    (tmp_path / "splits.json").write_text('[{"message_id": "a@x"}]')
    with pytest.raises(InputError, match=r"not a message.*|splits\.json"):
        list(open_corpus({"messages": [tmp_path / "splits.json"]}, None).messages())
    with pytest.raises(InputError, match="not a chunk id"):
        list(open_corpus({}, Archive.open((tmp_path / "empty").as_uri())).chunks(["nonsense"]))
