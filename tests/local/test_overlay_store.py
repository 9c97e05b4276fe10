"""A store over another one: it shows what was written, and the one below does not change."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.contracts.errors import MissingInputError
from jobs.contracts.folder_store import FolderStore
from jobs.contracts.store import Store
from jobs.local.overlay_store import OverlayStore

KEYS = ("a/1", "a/2", "b", "c/d/e")
calls = st.lists(
    st.tuples(
        st.sampled_from(("put", "put_if_absent", "upload", "delete")), st.sampled_from(KEYS), st.binary(max_size=3)
    ),
    max_size=12,
)


def apply(store: Store, name: str, key: str, data: bytes, folder: Path) -> object:
    if name == "delete":
        return store.delete(key)
    if name == "upload":
        (folder / "file").write_bytes(data)
        return store.upload(key, folder / "file")
    return getattr(store, name)(key, data)


def contents(store: Store) -> dict[str, bytes]:
    return {key: store.get(key) for key in store.list()}


@settings(max_examples=60, deadline=None)
@given(before=calls, after=calls)
def test_it_is_as_a_plain_store_and_leaves_the_one_below(tmp_path_factory, before, after) -> None:
    folder = tmp_path_factory.mktemp("stores")
    below, plain, above = (FolderStore(folder / name) for name in ("below", "plain", "above"))
    for call in before:
        apply(below, *call, folder)
        apply(plain, *call, folder)
    untouched = contents(below)
    overlay = OverlayStore(below, above)
    for call in after:
        assert apply(overlay, *call, folder) == apply(plain, *call, folder)
    assert contents(overlay) == contents(plain)
    assert list(overlay.list()) == list(plain.list())
    for prefix in ("a", "a/", "c/d/", "none"):
        assert list(overlay.list(prefix, "a/1")) == list(plain.list(prefix, "a/1"))
    for key in KEYS:
        assert overlay.exists(key) == plain.exists(key)
        if not plain.exists(key):
            with pytest.raises(MissingInputError):
                overlay.open(key)
    assert contents(below) == untouched


def test_over_nothing(tmp_path: Path) -> None:
    overlay = OverlayStore(None, FolderStore(tmp_path))
    assert list(overlay.list()) == []
    assert overlay.put_if_absent("a", b"1") is True
    assert overlay.put_if_absent("a", b"2") is False
    assert overlay.open("a").read() == b"1"
