"""The store in a local folder: one file per key, named by the key.

Files are written beside their place and then linked or renamed into it, so that a reader sees a
key's bytes whole or not at all, whatever kills the writer. A hard link is the conditional write: it
fails where the name exists, on local file systems and on NFS.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from jobs.contracts.errors import InputError, MissingInputError, OutputError, RefrainError, UnfitStoreError
from jobs.contracts.store import check_key

_Placed = TypeVar("_Placed")

_UNFINISHED = ".unfinished"
"""Folder of files that are being written; no key reaches it."""
_PROBE = "probe"
LOCK = ".lock"
"""File in the folder that a process which takes its turn may lock; no key of a store is called so."""
_PLACING_TRIES = 8
_STALE_SECONDS = 24 * 3600
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class FolderStore:
    """A `Store` (see `jobs.contracts.store`) in a folder, which is made unless `read_only`."""

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        self._root = root
        self._read_only = read_only
        if read_only:
            if not root.is_dir():
                raise MissingInputError("no such folder", where=str(root))
            return
        with self._writing(root):
            (root / _UNFINISHED).mkdir(parents=True, exist_ok=True)
            self._remove_stale()

    @property
    def url(self) -> str:
        """The folder as a `file://` URL."""
        return self._root.absolute().as_uri()

    def get(self, key: str) -> bytes:
        """The whole object; MissingInputError where there is none."""
        with self._reading(key) as path:
            return path.read_bytes()

    def open(self, key: str) -> BinaryIO:
        """The object as a readable stream; MissingInputError where there is none."""
        with self._reading(key) as path:
            return path.open("rb")

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        return self._path(key).is_file()

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[str]:
        """Keys under a prefix in ascending order, only those after `start_after`."""
        folder = prefix.rpartition("/")[0]
        if folder:
            check_key(folder)
        yield from self._walk(f"{folder}/" if folder else "", prefix, start_after)

    def put(self, key: str, data: bytes) -> None:
        """Write or replace an object, atomically and durably."""
        with self._unfinished(key) as (stream, unfinished, path):
            stream.write(data)
            _sync(stream)
            self._place(path, lambda: unfinished.replace(path))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write an object that must not be there yet: True where this call wrote it. Durable before it returns."""
        if self.exists(key):
            return False
        with self._unfinished(key) as (stream, unfinished, path):
            stream.write(data)
            _sync(stream)
            return self._place(path, lambda: self._link(unfinished, path))

    def upload(self, key: str, path: Path) -> None:
        """Write or replace an object from a file of any size, atomically and durably."""
        try:
            source = path.open("rb")
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from error
        with source, self._unfinished(key) as (stream, unfinished, target):
            shutil.copyfileobj(source, stream, 1 << 20)
            _sync(stream)
            self._place(target, lambda: unfinished.replace(target))

    def delete(self, key: str) -> None:
        """Remove an object, and its folder where that is empty then; nothing happens where there is none."""
        path = self._path(key)
        with self._writing(path):
            path.unlink(missing_ok=True)
        if path.parent != self._root:
            with suppress(OSError):  # of a folder that holds more
                path.parent.rmdir()

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _walk(self, folder: str, prefix: str, start_after: str) -> Iterator[str]:
        """Keys in a folder (`""` or ending with a slash), in the order of whole keys, as S3 lists them."""
        for name in _names(self._root / folder):
            key = folder + name
            if not key.startswith(prefix) and not prefix.startswith(key):
                continue
            if name.endswith("/"):
                if key > start_after or start_after.startswith(key):
                    yield from self._walk(key, prefix, start_after)
            elif key > start_after and key.startswith(prefix):
                yield key

    @contextmanager
    def _reading(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        try:
            yield path
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise MissingInputError("no such object", where=str(path)) from error
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from error

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        if self._read_only:
            raise OutputError("the store was opened for reading only", where=str(path))
        try:
            yield
        except OSError as error:
            raise _output_error(path, error) from error

    @contextmanager
    def _unfinished(self, key: str) -> Iterator[tuple[BinaryIO, Path, Path]]:
        """A new file to write, its path, and the path it is to get; afterwards the folder's entries are durable."""
        path = self._path(key)
        unfinished = self._root / _UNFINISHED / uuid.uuid4().hex
        with self._writing(path):
            try:
                unfinished.parent.mkdir(parents=True, exist_ok=True)
                with unfinished.open("xb") as stream:
                    yield stream, unfinished, path
                _sync_folder(path.parent)
            finally:
                unfinished.unlink(missing_ok=True)

    def _place(self, path: Path, place: Callable[[], _Placed]) -> _Placed:
        """Do what gives a file its name, in a folder that another process may remove meanwhile: it was empty."""
        for _ in range(_PLACING_TRIES):
            with suppress(FileNotFoundError):
                self._make_folder(path.parent)
                return place()
        self._make_folder(path.parent)
        return place()

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)

    def _link(self, unfinished: Path, path: Path) -> bool:
        try:
            os.link(unfinished, path)
        except FileExistsError:
            # On NFS a repeated request answers "exists" to the very call that made the link.
            return unfinished.stat().st_nlink > 1
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise UnfitStoreError(
                    f"the file system has no hard links ({error.strerror})",
                    where=self.url,
                    hint="keep the archive on a local disk or NFS, or in an S3 store",
                ) from error
            raise
        return True

    def _remove_stale(self) -> None:
        """Drop what killed writers left; a day is longer than any write takes."""
        oldest = time.time() - _STALE_SECONDS
        for path in (self._root / _UNFINISHED).iterdir():
            try:
                if path.stat().st_mtime < oldest:
                    path.unlink()
            except FileNotFoundError:
                continue  # another process dropped it, or its writer finished


@contextmanager
def unless_unused(root: Path) -> Iterator[None]:
    """Where the block makes a store in a folder that was not there, and writes no object to it: remove it again."""
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        yield
    finally:
        if made:
            _remove_unused(root)
        with suppress(OSError):  # of a folder that holds something
            for folder in made[1:]:
                folder.rmdir()


def _remove_unused(root: Path) -> None:
    with suppress(OSError):
        if {path.name for path in root.iterdir()} <= {_UNFINISHED, _PROBE, LOCK}:
            for name in (_UNFINISHED, _PROBE):
                if (root / name).exists():
                    (root / name).rmdir()
            (root / LOCK).unlink(missing_ok=True)
            root.rmdir()


def _names(folder: Path) -> list[str]:
    """What is in a folder, sorted, with a slash after each folder's name; nothing where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(f"{e.name}/" if e.is_dir() else e.name for e in entries if not e.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(folder)) from error


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _output_error(path: Path, error: OSError) -> RefrainError:
    hint = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space and run the same command again"
    elif error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        hint = "choose a folder that you may write to, or change its permissions"
    return OutputError(f"cannot be written: {error.strerror or error}", where=str(path), hint=hint)
