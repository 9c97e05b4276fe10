"""What is particular to the store in a folder: the file system's ways to fail."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.contracts.errors import InputError, MissingInputError, OutputError, UnfitStoreError
from jobs.contracts.folder_store import FolderStore
from jobs.contracts.store import open_store
from jobs.contracts.store_probe import prove_conditional_writes  # noqa: F401 - unprivileged, it may not be readable

NOBODY = 65534


@contextmanager
def unprivileged() -> Iterator[None]:
    """Without the superuser's right to write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that only its owner may write to, and all may reach."""
    for above in (tmp_path, *tmp_path.parents):
        if above.owner() != "root" or above.stat().st_mode & 0o005 != 0o005:
            above.chmod(above.stat().st_mode | 0o055)
        if above.name.startswith("pytest-of-"):
            break
    made = tmp_path / "archive"
    made.mkdir()
    return made


def unfinished(root: Path) -> list[Path]:
    return list((root / ".unfinished").iterdir())


def test_keys_are_files(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("a/b.json", b"{}")
    assert (tmp_path / "a" / "b.json").read_bytes() == b"{}"
    assert unfinished(tmp_path) == []


def test_files_are_readable_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        FolderStore(tmp_path).put("a", b"")
        FolderStore(tmp_path).put_if_absent("b", b"")
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "ab"] == [0o640, 0o640]


def test_what_a_killed_writer_left_is_not_listed_and_goes_after_a_day(tmp_path: Path) -> None:
    FolderStore(tmp_path)
    old, new = tmp_path / ".unfinished" / "old", tmp_path / ".unfinished" / "new"
    for path in (old, new):
        path.write_bytes(b"half a segm")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    store = FolderStore(tmp_path)
    assert list(store.list()) == []
    assert unfinished(tmp_path) == [new]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    length = 1 << 18
    store.put("a", bytes(length))
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number = (number + 1) % 256
            store.put("a", bytes([number]) * length)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            data = store.get("a")
            assert len(data) == length
            assert data.count(data[0]) == length
    finally:
        stop.set()
        writer.join()


def test_an_unwritable_folder(folder: Path) -> None:
    FolderStore(folder).put("a", b"1")
    for path in (folder, folder / ".unfinished"):
        path.chmod(0o555)
    with unprivileged():
        with pytest.raises(OutputError, match="Permission denied") as caught:
            open_store(str(folder))
        assert str(folder) in caught.value.where
        assert "may write to" in caught.value.hint
        with pytest.raises(OutputError, match="Permission denied"):
            open_store(str(folder / "new"))
        reader = open_store(str(folder), read_only=True)
        assert reader.get("a") == b"1"
    assert list(FolderStore(folder).list()) == ["a"]


def test_an_unreadable_file(folder: Path) -> None:
    store = FolderStore(folder)
    store.put("a/b", b"1")
    (folder / "a" / "b").chmod(0)
    with unprivileged():
        reader = FolderStore(folder, read_only=True)
        with pytest.raises(InputError, match="Permission denied") as caught:
            reader.get("a/b")
        assert caught.value.where == str(folder / "a" / "b")
    (folder / "a").chmod(0)
    with unprivileged(), pytest.raises(InputError, match="Permission denied"):
        list(reader.list())


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="Not a directory"):
        open_store(str(tmp_path / "file"))
    with pytest.raises(MissingInputError, match="no such folder"):
        open_store(str(tmp_path / "file"), read_only=True)
    store = FolderStore(tmp_path / "archive")
    store.put("a", b"1")
    with pytest.raises(OutputError, match="cannot be written"):
        store.put("a/b", b"2")
    store.put("c/d", b"3")
    with pytest.raises(OutputError, match="cannot be written"):
        store.put("c", b"4")
    assert list(store.list()) == ["a", "c/d"]
    assert unfinished(tmp_path / "archive") == []


_FILL = """
import sys
from pathlib import Path
from jobs.contracts.errors import OutputError
from jobs.contracts.folder_store import FolderStore

root = Path(sys.argv[1])
store = FolderStore(root)
store.put("small", b"1")
(root / "source").write_bytes(bytes(100_000))
for write in (
    lambda: store.put("big", bytes(1 << 20)),
    lambda: store.put_if_absent("big", bytes(1 << 20)),
    lambda: store.upload("big/er", root / "source") or store.upload("big/est", root / "source"),
):
    try:
        write()
    except OutputError as error:
        assert "No space left on device" in error.what, error
        assert "free some space" in error.hint, error
    else:
        raise SystemExit("nothing was refused")
    assert not store.exists("big") and not store.exists("big/est")
    assert list((root / ".unfinished").iterdir()) == []
store.delete("big/er")
store.put("afterwards", b"1")
print(*store.list())
"""


def test_a_full_disk(tmp_path: Path) -> None:
    """On a file system of 256 KiB, in a mount namespace of its own."""
    mounted = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f'mount -t tmpfs -o size=256k none {tmp_path} && exec "$@"'
    if subprocess.run([*mounted, mount, "sh", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let a user mount a small file system")
    command = [*mounted, mount, "sh", sys.executable, "-c", _FILL, str(tmp_path / "archive")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["afterwards", "small", "source"]


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(UnfitStoreError, match="no hard links"):
        open_store(str(tmp_path))
    assert unfinished(tmp_path) == []


def test_a_link_that_was_made_though_the_answer_says_that_it_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS does when the first answer was lost."""
    store = FolderStore(tmp_path)
    link = os.link

    def answer_lost(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError

    monkeypatch.setattr(os, "link", answer_lost)
    assert store.put_if_absent("a", b"1")
    assert store.get("a") == b"1"
