"""One suite over every store."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from servers.stores import MANY_BYTES

from jobs.contracts.errors import InputError, MissingInputError, OutputError, UsageError
from jobs.contracts.store import Store, open_archive, open_store
from jobs.contracts.store_probe import NUM_RACERS

if TYPE_CHECKING:
    from servers.stores import NewStore


@pytest.fixture
def store(new_store: NewStore) -> Store:
    return open_store(new_store())


def test_what_is_put_is_what_is_got(store: Store) -> None:
    for data in (b"", b"\0\xff", MANY_BYTES):
        store.put("a/b.bin", data)
        assert store.get("a/b.bin") == data
        with store.open("a/b.bin") as stream:
            assert stream.read() == data


def test_a_stream_is_seekable(store: Store) -> None:
    store.put("a", MANY_BYTES)
    with store.open("a") as stream:
        assert stream.seek(-10, 2) == len(MANY_BYTES) - 10
        assert stream.read() == MANY_BYTES[-10:]
        stream.seek(1_000_003)
        assert stream.read(5) == MANY_BYTES[1_000_003:1_000_008]
        assert stream.tell() == 1_000_008


def test_absent_objects(store: Store) -> None:
    assert not store.exists("a")
    with pytest.raises(MissingInputError, match="no such object"):
        store.get("a")
    with pytest.raises(MissingInputError, match="a"):
        store.open("a")
    store.delete("a")
    store.put("a/b", b"")
    assert not store.exists("a")
    with pytest.raises(MissingInputError):
        store.get("a")


def test_an_archive_below_the_place_that_was_named_is_pointed_at(new_store: NewStore) -> None:
    url = new_store()
    open_store(url).put("pictures/cat", b"")
    assert list(open_archive(url).list()) == ["pictures/cat"]
    open_store(url).put("raid/cycles/w1/parse/cursor.json", b"{}")
    with pytest.raises(MissingInputError) as caught:
        open_archive(url)
    assert caught.value.what == f"no archive in {url}; there is one in {url}/raid"
    open_store(url).put("linux/assignments/0.json", b"{}")
    with pytest.raises(MissingInputError, match=r"there is one in .*/linux, and in .*/raid"):
        open_archive(url)
    assert open_archive(f"{url}/raid").exists("cycles/w1/parse/cursor.json")
    open_store(url).put("cycles/w1/parse/cursor.json", b"{}")
    assert open_archive(url).exists("raid/cycles/w1/parse/cursor.json")


def test_delete(store: Store) -> None:
    store.put("a/b", b"1")
    store.delete("a/b")
    assert not store.exists("a/b")
    assert list(store.list()) == []


def test_list_is_in_the_order_of_whole_keys(store: Store) -> None:
    keys = ["a-b", "a.b", "a/a", "a/b/c", "a/b-c", "a0", "ab", "b/ü", "b/z"]
    for key in keys:
        store.put(key, b"")
    in_order = sorted(keys)
    assert list(store.list()) == in_order
    assert list(store.list("a")) == [key for key in in_order if key.startswith("a")]
    assert list(store.list("a/")) == ["a/a", "a/b-c", "a/b/c"]
    assert list(store.list("a/b")) == ["a/b-c", "a/b/c"]
    assert list(store.list("c")) == list(store.list("a/x/")) == []
    for key in [*in_order, "a/b/", "a/b/b", "a/c"]:
        assert list(store.list(start_after=key)) == [k for k in in_order if k > key], key
        assert list(store.list("a/", start_after=key)) == [k for k in in_order if k > key and k.startswith("a/")]


def test_list_goes_on_after_a_page(store: Store) -> None:
    keys = [f"many/{number:05d}" for number in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))
    assert list(store.list("many/")) == keys


def test_put_replaces_and_put_if_absent_does_not(store: Store) -> None:
    store.put("a", b"1")
    store.put("a", b"2")
    assert store.get("a") == b"2"
    assert not store.put_if_absent("a", b"3")
    assert not store.put_if_absent("a", b"2"), "equal bytes of another writer are not ours"
    assert store.get("a") == b"2"
    assert store.put_if_absent("b", b"3")
    assert store.get("b") == b"3"


def test_upload(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for data in (b"", MANY_BYTES):
        source.write_bytes(data)
        store.upload("up/load", source)
        assert store.get("up/load") == data
    with pytest.raises(InputError, match="cannot be read") as caught:
        store.upload("up/load", tmp_path / "not-there")
    assert caught.value.where == str(tmp_path / "not-there")


def test_one_winner_among_many_writers(store: Store) -> None:
    barrier = threading.Barrier(NUM_RACERS)

    def write(number: int) -> bool:
        barrier.wait()
        return store.put_if_absent("contended", str(number).encode())

    with ThreadPoolExecutor(NUM_RACERS) as pool:
        won = list(pool.map(write, range(NUM_RACERS)))
    assert won.count(True) == 1
    assert store.get("contended") == str(won.index(True)).encode()


def test_opening_leaves_nothing_behind(new_store: NewStore) -> None:
    url = new_store()
    assert list(open_store(url).list()) == []
    assert open_store(url).url == url


def test_read_only(new_store: NewStore, tmp_path: Path) -> None:
    url = new_store()
    open_store(url).put("a", b"1")
    reader = open_store(url, read_only=True)
    assert reader.get("a") == b"1"
    (tmp_path / "file").write_bytes(b"2")
    for write in (
        lambda: reader.put("a", b"2"),
        lambda: reader.put_if_absent("b", b"2"),
        lambda: reader.upload("b", tmp_path / "file"),
        lambda: reader.delete("a"),
    ):
        with pytest.raises(OutputError, match="for reading only"):
            write()
    assert list(reader.list()) == ["a"]
    assert reader.get("a") == b"1"


def test_keys_that_are_none(store: Store) -> None:
    keys = ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", ".unfinished/a", "a\\b", "a\nb", "x" * 1001]
    for key in keys:
        for use in (
            store.get,
            store.open,
            store.exists,
            store.delete,
            lambda key: store.put(key, b""),
            lambda key: store.put_if_absent(key, b""),
        ):
            with pytest.raises(UsageError, match="not a key"):
                use(key)


def test_urls(tmp_path: Path) -> None:
    assert open_store(f"{tmp_path}/with space").url == f"file://{tmp_path}/with%20space"
    assert (tmp_path / "with space").is_dir()
    assert open_store(f"file://{tmp_path}/with%20space").url == f"file://{tmp_path}/with%20space"
    for url in ("ftp://host/x", "s3://", "file://relative"):
        with pytest.raises(UsageError):
            open_store(url)
    with pytest.raises(MissingInputError, match="no such folder"):
        open_store(str(tmp_path / "absent"), read_only=True)
