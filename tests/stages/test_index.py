"""The index stage: each passage embedded once, in parts that are written once, and gone with its mail."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ml.tiny_embedder import tiny_embedder
from splitting import mail, messages, split, tree

from jobs.assignments.archive import Archive
from jobs.contracts.errors import ConfigError, MissingInputError, OutputError
from jobs.intake.exports import export_all, export_split
from jobs.ml.embedding import Embedder
from jobs.ml.vector_index import Index
from jobs.retrieval.query import Query
from jobs.runner import FINISHED_BEFORE, run_in_store
from jobs.stages import Inputs, Outputs, index, parse
from jobs.stages import split as split_stage
from jobs.stages.index import Config, run

if TYPE_CHECKING:
    from servers.stores import NewStore


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_embedder(tmp_path_factory.mktemp("model")))


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that have been embedded, as they come."""
    texts: list[str] = []
    own = Embedder.documents

    def documents(self: Embedder, some: list[str], *more: Any) -> Any:
        texts.extend(some)
        return own(self, some, *more)

    monkeypatch.setattr(Embedder, "documents", documents)
    return texts


def week(number: int, count: int = 20) -> list[dict[str, str]]:
    day = f"2024-{1 + number // 4:02d}-{1 + 7 * (number % 4):02d}"
    body = "The reshape of array {} broke on Monday. "
    return [
        mail(f"{n}@w{number}", day=day, body=body.format(n) * (1 + 4 * (n % 5 == 0)), subject=f"plan {n}")
        for n in range(count)
    ]


def import_weeks(archive: Archive, folder: Path, *numbers: int) -> Archive:
    for number in numbers:
        split(archive, week(number), folder, incremental=True, cycle=f"w{number}")
    return archive


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return import_weeks(Archive.open((tmp_path / "archive").as_uri()), tmp_path, 0, 1)


def indexed(archive: Archive, model: str, path: Path, cycle: str = "", **settings: Any) -> dict[str, Any]:
    return run(Config(model, **settings), Inputs(archive=archive, cycle=cycle), Outputs({"vector_index": path}))


def message_ids(archive: Archive, path: Path) -> set[str]:
    found = Index.open(path, archive.store)
    return {found.passage(one).message_id for one in found.passage_ids}


def test_all_mail_of_all_splits_is_there(archive: Archive, model: str, tmp_path: Path) -> None:
    result = indexed(archive, model, tmp_path / "index.json")
    records = messages(archive)
    found = Index.open(tmp_path / "index.json", archive.store)
    passages = [found.passage(one) for one in found.passage_ids]
    assert {one.message_id for one in passages} == set(records)
    assert {one.split for one in passages} == {"train", "val", "test"}
    for one in passages:
        record = records[one.message_id]
        told = (one.thread_id, one.split, one.window_idx, one.date, one.sender, one.subject)
        assert told == tuple(record[name] for name in ("thread_id", "split", "window_idx", "date", "sender", "subject"))
        assert one.text in record["text"]
    assert (result["num_messages"], result["num_passages"], result["window_idx"]) == (40, len(passages), 1)
    assert len(passages) > 40  # some mails are longer than the model's limit


def test_only_what_is_new_is_embedded(archive: Archive, model: str, tmp_path: Path, embedded: list[str]) -> None:
    first = indexed(archive, model, tmp_path / "first.json")
    assert len(embedded) == first["num_passages"]
    embedded.clear()
    assert indexed(archive, model, tmp_path / "again.json") == first
    assert embedded == []
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "first.json").read_bytes()
    before = tree(tmp_path / "archive" / "index")
    import_weeks(archive, tmp_path, 2)
    second = indexed(archive, model, tmp_path / "second.json", "w2")
    assert len(embedded) == second["num_passages"] - first["num_passages"] == second["num_new_passages"] > 0
    after = tree(tmp_path / "archive" / "index")
    assert {name: after[name] for name in before} == before


def test_mail_is_read_once_however_many_its_parts(
    archive: Archive, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "MESSAGES_PER_PART", 2)
    read: list[str] = []
    own = index.as_record

    def as_record(kind: Any, record: Any, where: str) -> Any:
        read.append(record["message_id"])
        return own(kind, record, where)

    monkeypatch.setattr(index, "as_record", as_record)
    result = indexed(archive, model, tmp_path / "index.json")
    assert result["num_parts"] > 10
    assert len(read) == len(set(read)) == 40
    before = tree(tmp_path / "archive" / "index")
    for name in sorted(before)[1::3]:
        (tmp_path / "archive" / "index" / name).unlink()
    assert indexed(archive, model, tmp_path / "index.json") == result
    assert tree(tmp_path / "archive" / "index") == before


def test_a_stopped_run_goes_on_and_leaves_the_same_bytes(
    archive: Archive, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "MESSAGES_PER_PART", 7)
    undisturbed = import_weeks(Archive.open((tmp_path / "undisturbed").as_uri()), tmp_path, 0, 1)
    expected = indexed(undisturbed, model, tmp_path / "expected.json")
    own, calls = Embedder.documents, []

    def documents(self: Embedder, *more: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return own(self, *more)

    monkeypatch.setattr(Embedder, "documents", documents)
    with pytest.raises(KeyboardInterrupt):
        indexed(archive, model, tmp_path / "index.json")
    assert not (tmp_path / "index.json").exists()
    assert len(tree(tmp_path / "archive" / "index")) == 3
    assert indexed(archive, model, tmp_path / "index.json") == expected
    assert len(calls) == expected["num_parts"] + 1 > 6
    assert tree(tmp_path / "archive" / "index") == tree(tmp_path / "undisturbed" / "index")
    assert (tmp_path / "index.json").read_bytes() == (tmp_path / "expected.json").read_bytes()


def test_a_full_disk_loses_nothing(
    archive: Archive, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit_files: Any
) -> None:
    monkeypatch.setattr(index, "MESSAGES_PER_PART", 7)
    undisturbed = import_weeks(Archive.open((tmp_path / "undisturbed").as_uri()), tmp_path, 0, 1)
    expected = indexed(undisturbed, model, tmp_path / "expected.json")
    own, calls, before = Embedder.documents, [], set(tree(tmp_path / "archive"))

    def documents(self: Embedder, *more: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            limit_files(1000)
        return own(self, *more)

    monkeypatch.setattr(Embedder, "documents", documents)
    with pytest.raises(OutputError, match=r"too large|space"):
        indexed(archive, model, tmp_path / "index.json")
    assert not (tmp_path / "index.json").exists()
    assert len(set(tree(tmp_path / "archive")) - before) == 3  # whole parts, and no half of one
    limit_files(resource.RLIM_INFINITY)
    assert indexed(archive, model, tmp_path / "index.json") == expected
    assert len(calls) == expected["num_parts"] + 1
    assert tree(tmp_path / "archive" / "index") == tree(tmp_path / "undisturbed" / "index")
    assert (tmp_path / "index.json").read_bytes() == (tmp_path / "expected.json").read_bytes()


def test_mail_that_is_deleted_leaves_the_index(archive: Archive, model: str, tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    indexed(archive, model, path)
    everything = message_ids(archive, path)
    (key,) = archive.store.list("messages/000000/train-")
    archive.store.delete(key)
    kept = set(messages(archive))
    assert kept < everything
    assert message_ids(archive, path) == kept  # at once, before the index is made again
    assert Index.open(path, archive.store).notes
    assert any("/000000/train-" in one for one in archive.store.list("index/"))
    result = indexed(archive, model, path)
    assert result["num_messages"] == len(kept)
    assert message_ids(archive, path) == kept
    assert not Index.open(path, archive.store).notes
    assert not any("/000000/train-" in one for one in archive.store.list("index/"))
    assert len(list(archive.store.list("index/"))) == result["num_parts"]


def test_of_every_model(archive: Archive, model: str, tmp_path: Path) -> None:
    """Models do not touch each other's parts; deleted mail leaves them all."""
    other = str(tiny_embedder(tmp_path / "other", seed=1))
    indexed(archive, model, tmp_path / "a.json")
    first = set(archive.store.list("index/"))
    indexed(archive, other, tmp_path / "b.json")
    assert set(archive.store.list("index/")) > first
    (key,) = archive.store.list("messages/000001/train-")
    archive.store.delete(key)
    indexed(archive, model, tmp_path / "a.json")
    assert not any("/000001/train-" in one for one in archive.store.list("index/"))
    assert message_ids(archive, tmp_path / "b.json") == message_ids(archive, tmp_path / "a.json")


def test_a_cycle_s_index_ends_with_its_window(archive: Archive, model: str, tmp_path: Path) -> None:
    early = indexed(archive, model, tmp_path / "early.json", "w0")
    assert (early["window_idx"], early["num_messages"]) == (0, 20)
    indexed(archive, model, tmp_path / "late.json", "w1")
    before = set(archive.store.list("index/"))
    assert indexed(archive, model, tmp_path / "again.json", "w0") == early
    assert set(archive.store.list("index/")) == before  # what is later stays
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "early.json").read_bytes()


def test_of_two_parts_that_racing_writers_left_one_counts(archive: Archive, model: str, tmp_path: Path) -> None:
    indexed(archive, model, tmp_path / "index.json")
    key = next(iter(archive.store.list("index/")))
    stem, _, digest = key.removesuffix(".parquet").rpartition(".")
    archive.store.put(f"{stem}.{'f' * 64}.parquet", archive.store.get(key))
    assert digest < "f" * 64
    before = (tmp_path / "index.json").read_bytes()
    indexed(archive, model, tmp_path / "index.json")
    assert (tmp_path / "index.json").read_bytes() == before


def test_an_archive_without_mail_has_an_empty_index(model: str, tmp_path: Path) -> None:
    empty = Archive.open((tmp_path / "empty").as_uri())
    assert indexed(empty, model, tmp_path / "index.json")["num_passages"] == 0
    assert Index.open(tmp_path / "index.json", empty.store).search([Query("plan")], k=5) == [[]]


# ---- plain files


def exported(archive: Archive, folder: Path) -> dict[str, list[Path]]:
    folder.mkdir(exist_ok=True)
    export_all(archive, folder / "assignments.json")
    for one in ("train", "val", "test"):
        export_split(archive, one, folder / "splits" / f"{one}.json")
    return {"assignments": [folder / "assignments.json"]}


def test_plain_files_have_the_same_passages(archive: Archive, model: str, tmp_path: Path) -> None:
    paths = exported(archive, tmp_path / "files")
    output = tmp_path / "vector_db" / "index.json"
    result = run(Config(model), Inputs(paths), Outputs({"vector_index": output}))
    expected = indexed(archive, model, tmp_path / "index.json")
    assert {name: result[name] for name in ("num_passages", "num_messages", "model_digest")} == {
        name: expected[name] for name in ("num_passages", "num_messages", "model_digest")
    }
    queries = [Query("which array broke", before="2024-01-05"), Query("plan 7")]
    from_files, from_archive = Index.open(output), Index.open(tmp_path / "index.json", archive.store)
    assert from_files.search(queries, k=5) == from_archive.search(queries, k=5)
    assert [from_files.passage(one) for one in from_files.passage_ids] == [
        from_archive.passage(one) for one in from_archive.passage_ids
    ]


def test_plain_files_are_incremental_and_forget(
    archive: Archive, model: str, tmp_path: Path, embedded: list[str]
) -> None:
    output = tmp_path / "vector_db" / "index.json"

    def again() -> dict[str, Any]:
        return run(Config(model), Inputs(exported(archive, tmp_path / "files")), Outputs({"vector_index": output}))

    first = again()
    embedded.clear()
    import_weeks(archive, tmp_path, 2)
    second = again()
    assert len(embedded) == second["num_passages"] - first["num_passages"] == second["num_new_passages"] > 0
    embedded.clear()
    (key,) = archive.store.list("messages/000000/train-")
    archive.store.delete(key)
    third = again()
    assert embedded == []
    found = Index.open(output)
    assert {found.passage(one).message_id for one in found.passage_ids} == set(messages(archive))
    assert third["num_passages"] == len(found)
    assert len(list((tmp_path / "vector_db").rglob("*.parquet"))) == third["num_parts"]


def test_a_folder_holds_the_index_of_one_model(archive: Archive, model: str, tmp_path: Path) -> None:
    paths = exported(archive, tmp_path / "files")
    outputs = Outputs({"vector_index": tmp_path / "vector_db" / "index.json"})
    digest = run(Config(model), Inputs(paths), outputs)["model_digest"]
    before = tree(tmp_path / "vector_db")
    with pytest.raises(ConfigError, match=digest[:16]):
        run(Config(str(tiny_embedder(tmp_path / "other", seed=1))), Inputs(paths), outputs)
    assert tree(tmp_path / "vector_db") == before


def test_mails_that_are_not_there(model: str, tmp_path: Path) -> None:
    paths = {"messages": [tmp_path / "none"]}
    with pytest.raises(MissingInputError, match="none"):
        run(Config(model), Inputs(paths), Outputs({"vector_index": tmp_path / "db" / "index.json"}))
    assert not (tmp_path / "db").exists()


# ---- over a store


def test_over_every_store(new_store: NewStore, model: str, tmp_path: Path) -> None:
    url, source = new_store(), tmp_path / "week.mbox"
    source.write_text("".join(f"From x Mon Jan  1 00:00:00 2024\n{one['email_message']}\n" for one in week(0, 6)))
    run_in_store("parse", parse.Config((str(source),), workers=1), url=url, cycle="w0")
    run_in_store("split", split_stage.Config(workers=1), url=url, cycle="w0")
    result = run_in_store("index", Config(model), url=url, cycle="w0")
    assert result["num_messages"] == 6
    archive = Archive.open(url)
    listed = json.loads(archive.store.get("cycles/w0/index/index.json"))
    assert [part["key"] for part in listed["parts"]] == list(archive.store.list("index/"))
    path = tmp_path / "index.json"
    path.write_bytes(archive.store.get("cycles/w0/index/index.json"))
    (hits,) = Index.open(path, archive.store).search([Query("array 3")], k=3)
    assert len(hits) == 3
    assert run_in_store("index", Config(model, workers=2), url=url, cycle="w0").pop(FINISHED_BEFORE)
