"""Items of a folder artifact: whole or not there, in the order of their numbers, checked when brought."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from jobs.contracts.errors import IntegrityError, MissingInputError
from jobs.contracts.store import Store, open_store
from jobs.items import COMPLETE, STATE, LocalItems, StoreItems, verify

if TYPE_CHECKING:
    from servers.stores import NewStore

PREFIX = "cycles/w1/train/checkpoints"


@pytest.fixture
def store(new_store: NewStore) -> Store:
    return open_store(new_store())


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def published(store: Store, folder: Path, *names: str) -> StoreItems:
    items = StoreItems(store, PREFIX, folder)
    for name in names:
        write(folder / name, adapter=f"weights of {name}", training_state__optimiser="moments")
        items.publish(name)
    return items


def test_what_was_published_is_brought_elsewhere(store: Store, tmp_path: Path) -> None:
    published(store, tmp_path / "a", "step_900", "step_1000", "step_20")
    elsewhere = StoreItems(store, PREFIX, tmp_path / "b")
    assert elsewhere.names() == ["step_20", "step_900", "step_1000"]
    folder = elsewhere.bring("step_900")
    assert (folder / "adapter").read_text() == "weights of step_900"
    assert (folder / STATE / "optimiser").read_text() == "moments"
    assert verify(folder) == folder


def test_readers_are_not_brought_the_training_state(store: Store, tmp_path: Path) -> None:
    published(store, tmp_path / "a", "step_1")
    folder = StoreItems(store, PREFIX, tmp_path / "b").bring("step_1", state=False)
    assert sorted(path.name for path in folder.rglob("*")) == [COMPLETE, "adapter"]
    assert verify(folder) == folder


def test_an_item_without_its_marker_does_not_count(store: Store, tmp_path: Path) -> None:
    items = published(store, tmp_path / "a", "step_1", "step_2")
    store.delete(f"{PREFIX}/step_2/{COMPLETE}")
    assert items.names() == ["step_1"]
    items.publish("step_2")
    assert items.names() == ["step_1", "step_2"]


def test_publishing_again_writes_nothing_and_a_changed_item_is_replaced(store: Store, tmp_path: Path) -> None:
    items = published(store, tmp_path / "a", "step_1")
    store.delete(f"{PREFIX}/step_1/adapter")
    items.publish("step_1")
    assert not store.exists(f"{PREFIX}/step_1/adapter")
    write(tmp_path / "a" / "step_1", adapter="others")
    items.publish("step_1")
    assert store.get(f"{PREFIX}/step_1/adapter") == b"others"


def test_what_another_process_cleans_away_meanwhile_is_uploaded_again(store: Store, tmp_path: Path) -> None:
    """Two pods of one stage: the other one takes what has no marker yet for left over."""
    write(tmp_path / "a" / "step_1", adapter="weights", training_state__optimiser="moments")

    class Meanwhile:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def upload(self, key: str, path: Path) -> None:
            if key.endswith(COMPLETE):
                StoreItems(store, PREFIX, tmp_path / "b").clean("step")
            store.upload(key, path)

    StoreItems(Meanwhile(), PREFIX, tmp_path / "a").publish("step_1")  # type: ignore[arg-type]
    assert verify(StoreItems(store, PREFIX, tmp_path / "c").bring("step_1"))


def test_a_marker_that_comes_while_its_files_are_cleaned_away_does_not_stay(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "a" / "step_1", adapter="weights", more="weights")
    items = StoreItems(store, PREFIX, tmp_path / "a")
    for name in ("adapter", "more"):
        store.put(f"{PREFIX}/step_1/{name}", b"weights")

    class Meanwhile:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def delete(self, key: str) -> None:
            if key.endswith("adapter"):
                items.publish("step_1")
            store.delete(key)

    StoreItems(Meanwhile(), PREFIX, tmp_path / "b").clean("step")  # type: ignore[arg-type]
    assert items.names() == []


@pytest.mark.parametrize("thorough", [True, False])
def test_items_are_checked_where_they_are(store: Store, tmp_path: Path, thorough: bool) -> None:
    published(store, tmp_path / "a", "step_1")
    items = StoreItems(store, PREFIX, tmp_path / "b", thorough=thorough)
    items.check("step_1")
    store.delete(f"{PREFIX}/step_1/{STATE}/optimiser")
    items.check("step_1")
    right = store.get(f"{PREFIX}/step_1/adapter")
    store.put(f"{PREFIX}/step_1/adapter", right[:-1] + b"?")
    if thorough:
        with pytest.raises(IntegrityError, match="step_1/adapter"):
            items.check("step_1")
    else:
        items.check("step_1")
    store.put(f"{PREFIX}/step_1/adapter", right[:-1])
    with pytest.raises(IntegrityError, match="step_1/adapter"):
        items.check("step_1")
    store.delete(f"{PREFIX}/step_1/adapter")
    with pytest.raises(MissingInputError, match="step_1/adapter"):
        items.check("step_1")
    assert not (tmp_path / "b").exists()


def test_a_file_that_was_changed_in_the_store_is_noticed(store: Store, tmp_path: Path) -> None:
    published(store, tmp_path / "a", "step_1")
    store.put(f"{PREFIX}/step_1/adapter", b"tampered with")
    with pytest.raises(IntegrityError, match="step_1/adapter"):
        StoreItems(store, PREFIX, tmp_path / "b").bring("step_1")


def test_deleting_takes_all_of_one_item_and_none_of_another(store: Store, tmp_path: Path) -> None:
    items = published(store, tmp_path / "a", "step_1", "step_10")
    items.delete("step_1")
    assert items.names() == ["step_10"]
    assert [key for key in store.list(f"{PREFIX}/") if "step_1/" in key] == []
    assert not (tmp_path / "a" / "step_1").exists()
    items.delete("step_1")


@pytest.mark.parametrize("where", ["store", "folder"])
def test_what_only_the_stage_needs_can_be_dropped(store: Store, tmp_path: Path, where: str) -> None:
    items = published(store, tmp_path / "a", "step_1", "step_10")
    if where == "folder":
        items = LocalItems(tmp_path / "a")  # type: ignore[assignment]
    items.drop_state("step_1")
    assert items.names() == ["step_1", "step_10"], "complete all the same"
    reader = items if where == "folder" else StoreItems(store, PREFIX, tmp_path / "b")
    folder = reader.bring("step_1", state=False) if where == "store" else reader.bring("step_1")
    assert (folder / "adapter").read_text() == "weights of step_1"
    assert not (folder / STATE).exists()
    assert (reader.bring("step_10") / STATE / "optimiser").exists()
    items.drop_state("step_1")


@pytest.mark.parametrize("where", ["store", "folder"])
def test_what_never_became_complete_is_cleaned_away_and_nothing_else(store: Store, tmp_path: Path, where: str) -> None:
    items = published(store, tmp_path / "a", "step_1", "step_2", "step_3")
    if where == "store":
        store.delete(f"{PREFIX}/step_2/{COMPLETE}")
        store.put(f"{PREFIX}/step_notes/a", b"somebody else's")
    else:
        items = LocalItems(tmp_path / "a")  # type: ignore[assignment]
        (tmp_path / "a" / "step_2" / COMPLETE).unlink()
        write(tmp_path / "a" / "step_notes", a="somebody else's")
        write(tmp_path / "a" / "run_7", a="somebody else's")
    items.clean("step")
    names = [key.removeprefix(f"{PREFIX}/").split("/")[0] for key in store.list(f"{PREFIX}/")]
    if where == "folder":
        names = [path.name for path in (tmp_path / "a").iterdir()]
        assert "run_7" in names
    assert {"step_1", "step_3", "step_notes"} <= set(names)
    assert "step_2" not in names
    assert items.names() == ["step_1", "step_3"]


def test_items_on_this_machine_alone(tmp_path: Path) -> None:
    items = LocalItems(tmp_path)
    write(tmp_path / "step_2", adapter="x")
    write(tmp_path / "step_10", adapter="y")
    assert items.names() == []
    items.publish("step_10")
    items.publish("step_2")
    assert items.names() == ["step_2", "step_10"]
    assert items.bring("step_2") == tmp_path / "step_2"
    (tmp_path / "step_2" / "adapter").write_text("z")
    with pytest.raises(IntegrityError, match="step_2"):
        items.bring("step_2")
    items.delete("step_2")
    assert items.names() == ["step_10"]


def test_verify_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="not complete"):
        verify(tmp_path)
    write(tmp_path, adapter="x", training_state__optimiser="y")
    LocalItems(tmp_path.parent).publish(tmp_path.name)
    shutil.rmtree(tmp_path / STATE)
    assert verify(tmp_path) == tmp_path
    (tmp_path / "adapter").unlink()
    with pytest.raises(MissingInputError, match="adapter"):
        verify(tmp_path)
    assert set(orjson.loads((tmp_path / COMPLETE).read_bytes())["files"]) == {"adapter", f"{STATE}/optimiser"}
