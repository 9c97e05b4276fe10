"""What a cycle's file names: paths from where it lies, the store's settings, the commit of the base model."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from local.cycles import cycle_of

from jobs.contracts.artifacts import BASE_KEY, artifact_key, marker_key
from jobs.contracts.cycle.data import StoreSpec
from jobs.contracts.folder_store import FolderStore
from jobs.contracts.store import Store, StoreOptions
from jobs.local import places
from jobs.local.places import is_on_hub, pinned, pinned_embedding, reach

COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.mark.parametrize(
    ("given", "located"),
    [
        ("mail.mbox", "{folder}/mail.mbox"),
        ("../mail.mbox", "{parent}/mail.mbox"),
        ("/mail/mail.mbox", "/mail/mail.mbox"),
        ("s3://mail/2024.mbox.gz", "s3://mail/2024.mbox.gz"),
        ("file:///mail/mail.mbox", "file:///mail/mail.mbox"),
    ],
)
def test_paths_are_meant_from_the_file(given: str, located: str, tmp_path: Path) -> None:
    folder = tmp_path / "cycles"
    spec = cycle_of(folder, sources=[{"mbox": given}, {"imap": "imaps://ann@x.example/F"}], store={"url": given}).spec
    expected = located.format(folder=folder, parent=tmp_path)
    assert [str(source) for source in spec.sources] == [expected, "imaps://ann@x.example/F"]
    assert spec.store.url == expected
    assert spec.archive_url == f"{expected}/workshop"


def test_a_home_folder_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cycle_of(Path("/x"), store={"url": "~/archives"}).spec.store.url == f"{tmp_path}/archives"


@pytest.mark.parametrize(
    ("given", "located"),
    [
        ("models/tiny", "{folder}/models/tiny"),
        ("./absent", "{folder}/absent"),
        ("/models/x", "/models/x"),
        ("file:///models/x", "/models/x"),
        ("org/model", "org/model"),
        ("gpt2", "gpt2"),
        ("s3://models/x", "s3://models/x"),
    ],
)
def test_a_model_is_a_folder_where_there_is_one(given: str, located: str, tmp_path: Path) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    spec = cycle_of(tmp_path, model={"base": given}, evaluation={"embeddingModel": given}).spec
    assert spec.model.base == spec.evaluation.embedding_model == located.format(folder=tmp_path)
    assert is_on_hub(spec.model.base) == (given in ("org/model", "gpt2"))


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_REGION",
        "REFRAIN_S3_ADDRESSING_STYLE",
        "REFRAIN_S3_SSE",
    ):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is taken back
        monkeypatch.delenv(name)
    return monkeypatch


STORE = StoreSpec(url="s3://bucket", endpoint="http://minio:9000", region="eu-1", sse="AES256", addressing_style="path")


def test_the_store_is_reached_as_the_file_says(clean_environment: pytest.MonkeyPatch) -> None:
    options = reach(STORE)
    assert options == StoreOptions(region="eu-1", sse="AES256", addressing_style="path")
    import os

    assert os.environ["AWS_ENDPOINT_URL"] == "http://minio:9000"


def test_the_environment_wins_over_the_file(clean_environment: pytest.MonkeyPatch) -> None:
    import os

    said = {"AWS_ENDPOINT_URL": "http://here:1", "AWS_REGION": "us-1", "REFRAIN_S3_SSE": "aws:kms"}
    for name, value in said.items():
        clean_environment.setenv(name, value)
    options = reach(STORE)
    assert (options.region, options.sse) == ("us-1", "aws:kms")
    assert os.environ["AWS_ENDPOINT_URL"] == "http://here:1"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return FolderStore(tmp_path)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The revisions that the hub was asked for; it answers with COMMIT."""
    asked: list[str | None] = []

    def find(model: places.ModelSpec) -> str:
        asked.append(model.revision)
        return COMMIT

    monkeypatch.setattr(places, "_found_revision", find)
    return asked


def revision_of(store: Store, **model: str) -> str | None:
    return pinned(cycle_of(Path("/x"), model={"base": "org/model"} | model), store).spec.model.revision


def test_the_newest_commit_where_nothing_is_known(store: Store, found: list[str | None]) -> None:
    assert revision_of(store) == COMMIT
    assert revision_of(store, revision="main") == COMMIT
    assert found == [None, "main"]


def test_a_revision_may_stand_behind_the_name(store: Store, found: list[str | None]) -> None:
    model = cycle_of(Path("/x"), model={"base": f"org/model@{OTHER}"}).spec.model
    assert (model.base, model.revision) == ("org/model", OTHER)
    assert cycle_of(Path("/x"), model={"base": "./a@b"}).spec.model.revision is None
    assert found == []


def test_a_commit_is_taken_as_it_is(store: Store, found: list[str | None]) -> None:
    assert revision_of(store, revision=OTHER) == OTHER
    assert revision_of(store, base="/models/x") is None
    assert found == []


def test_the_commit_of_the_archive_s_adapters(store: Store, found: list[str | None]) -> None:
    store.put(BASE_KEY, orjson.dumps({"base": "org/model", "revision": OTHER}))
    assert revision_of(store) == OTHER
    assert revision_of(store, base="org/another") == COMMIT
    assert found == [None]


@pytest.mark.parametrize("revision", [None, "main"])
def test_within_a_cycle_the_commit_stays(store: Store, found: list[str | None], revision: str | None) -> None:
    store.put(marker_key("w1", "split"), orjson.dumps({"config": {"tokenizer": f"org/model@{OTHER}"}}))
    assert revision_of(store, **({"revision": revision} if revision else {})) == OTHER
    assert found == []


def embedding_of(store: Store, name: str = "org/embed", cycle: str = "w2") -> str:
    one = cycle_of(Path("/x"), cycle, evaluation={"embeddingModel": name})
    return pinned_embedding(one, store).spec.evaluation.embedding_model


def put_index(store: Store, cycle: str, window_idx: int, revision: str | None, said: str | None = None) -> None:
    config = {"embedding_model": "org/embed", "embedding_revision": said}
    store.put(marker_key(cycle, "index"), orjson.dumps({"result": {"window_idx": window_idx}, "config": config}))
    catalogue = orjson.dumps({"model": "org/embed", "revision": revision})
    store.put(artifact_key(cycle, "index", "vector_index"), catalogue)


def test_the_embedding_model_stays_that_of_the_newest_index(store: Store) -> None:
    assert embedding_of(store) == "org/embed"
    put_index(store, "w1", 1, OTHER)
    put_index(store, "w0", 0, COMMIT)
    assert embedding_of(store) == f"org/embed@{OTHER}"
    assert embedding_of(store, f"org/embed@{COMMIT}") == f"org/embed@{COMMIT}", "as it is said"
    assert embedding_of(store, "org/another") == "org/another"
    assert embedding_of(store, "package:some_model") == "package:some_model"
    assert embedding_of(store, "/models/a@b") == "/models/a@b"


def test_within_a_cycle_the_embedding_model_stays_as_it_was_said(store: Store) -> None:
    put_index(store, "w2", 2, OTHER)
    assert embedding_of(store) == "org/embed", "its index found the commit by itself"
    put_index(store, "w2", 2, OTHER, said=OTHER)
    assert embedding_of(store) == f"org/embed@{OTHER}"
