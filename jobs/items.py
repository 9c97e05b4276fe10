"""Folder artifacts: items that come one by one while a stage runs, each whole or not there at all.

An item is a folder, such as `step_500/`. Its marker `_COMPLETE.json` names every file in it with its
digest and is written last, on disk and in a store; an item without one does not count.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import orjson

from jobs.contracts.errors import IntegrityError, MissingInputError
from jobs.contracts.records import Json
from jobs.contracts.store import Store
from jobs.files import input_error, write_json

COMPLETE = "_COMPLETE.json"
STATE = "training_state"
"""Subfolder of an item that only the stage itself needs, to go on; others are not brought it."""

_BLOCK_BYTES = 1 << 20
_NUMBER = re.compile(r"\d+")


class Items(Protocol):
    """The complete items of one folder artifact."""

    folder: Path
    """Where items lie on this machine, each under its name."""

    def names(self) -> list[str]:
        """The complete items, in the order of the numbers in their names."""
        ...

    def bring(self, name: str) -> Path:
        """The folder of a complete item on this machine, its digests checked; IntegrityError, MissingInputError."""
        ...

    def check(self, name: str) -> None:
        """MissingInputError, IntegrityError where a complete item, but for its training state, is not as written."""
        ...

    def publish(self, name: str) -> None:
        """Make a folder that has been written count. Doing it again changes nothing."""
        ...

    def delete(self, name: str) -> None:
        """Remove an item, its marker first."""
        ...

    def drop_state(self, name: str) -> None:
        """Remove what of a complete item only the stage itself needs (`training_state/`)."""
        ...

    def clean(self, kind: str) -> None:
        """Remove what was left of items called `<kind>_<number>` that never became complete."""
        ...


class LocalItems:
    """See `Items`: on this machine alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """See `Items`."""
        found = (path.parent for path in self.folder.glob(f"*/{COMPLETE}"))
        return sorted((item.name for item in found if not item.is_symlink()), key=_order)  # a link is no further item

    def bring(self, name: str) -> Path:
        """See `Items`."""
        return verify(self.folder / name)

    def check(self, name: str) -> None:
        """See `Items`: by digests."""
        verify(self.folder / name)

    def publish(self, name: str) -> None:
        """See `Items`."""
        seal(self.folder / name)

    def delete(self, name: str) -> None:
        """See `Items`."""
        (self.folder / name / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def drop_state(self, name: str) -> None:
        """See `Items`."""
        shutil.rmtree(self.folder / name / STATE, ignore_errors=True)

    def clean(self, kind: str) -> None:
        """See `Items`."""
        for path in self.folder.glob(f"{kind}_*"):
            if _is_item(path.name, kind) and path.is_dir() and not (path / COMPLETE).is_file():
                shutil.rmtree(path, ignore_errors=True)


class StoreItems:
    """See `Items`: in a store, under a prefix; `folder` is where they are written, and brought to.

    `thorough`: whether `check` reads files through for their digests; otherwise their sizes must do.
    """

    def __init__(self, store: Store, prefix: str, folder: Path, *, thorough: bool = False) -> None:
        self.folder = folder
        self._store = store
        self._prefix = prefix.rstrip("/")
        self._thorough = thorough

    def names(self) -> list[str]:
        """See `Items`."""
        found = [key.removeprefix(f"{self._prefix}/").split("/") for key in self._store.list(f"{self._prefix}/")]
        return sorted((parts[0] for parts in found if parts[1:] == [COMPLETE]), key=_order)

    def bring(self, name: str, *, state: bool = True) -> Path:
        """See `Items`; without what is in `training_state/` where that is not wanted."""
        target = self.folder / name
        marker = self._store.get(f"{self._prefix}/{name}/{COMPLETE}")
        files: Json = orjson.loads(marker)["files"]
        for file in files:
            if state or not file.startswith(f"{STATE}/"):
                self._bring_file(name, file, files[file]["sha256"], target / file)
        (target / COMPLETE).write_bytes(marker)
        return target

    def _bring_file(self, name: str, file: str, sha256: str, path: Path) -> None:
        key = f"{self._prefix}/{name}/{file}"
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with self._store.open(key) as source, path.open("wb") as target:
            while block := source.read(_BLOCK_BYTES):
                digest.update(block)
                target.write(block)
        if digest.hexdigest() != sha256:
            raise _damaged(f"{self._store.url}/{key}")

    def check(self, name: str) -> None:
        """See `Items`."""
        files: Json = orjson.loads(self._store.get(f"{self._prefix}/{name}/{COMPLETE}"))["files"]
        for file, facts in files.items():
            key = f"{self._prefix}/{name}/{file}"
            if not file.startswith(f"{STATE}/") and not self._is_as_written(key, facts):
                raise _damaged(f"{self._store.url}/{key}")

    def _is_as_written(self, key: str, facts: Json) -> bool:
        with self._store.open(key) as stream:
            if self._thorough:
                digest = hashlib.file_digest(stream, "sha256")  # type: ignore[arg-type]  # typeshed's BinaryIO lacks readinto
                return bool(digest.hexdigest() == facts["sha256"])
            return bool(stream.seek(0, os.SEEK_END) == facts["num_bytes"])

    def publish(self, name: str) -> None:
        """See `Items`."""
        marker = seal(self.folder / name)
        key = f"{self._prefix}/{name}/{COMPLETE}"
        if self._store.exists(key) and self._store.get(key) == marker.read_bytes():
            return
        files = list(orjson.loads(marker.read_bytes())["files"])
        self._upload(name, files)
        self._store.upload(key, marker)
        # Another process of the same stage may have cleaned away what had no marker yet.
        there = set(self._store.list(f"{self._prefix}/{name}/"))
        self._upload(name, [file for file in files if f"{self._prefix}/{name}/{file}" not in there])

    def _upload(self, name: str, files: list[str]) -> None:
        for file in files:
            self._store.upload(f"{self._prefix}/{name}/{file}", self.folder / name / file)

    def delete(self, name: str) -> None:
        """See `Items`."""
        self._store.delete(f"{self._prefix}/{name}/{COMPLETE}")
        self._delete(f"{name}/")
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def drop_state(self, name: str) -> None:
        """See `Items`; nor is a copy kept on this machine."""
        self._delete(f"{name}/{STATE}/")
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def clean(self, kind: str) -> None:
        """See `Items`."""
        keys = self._store.list(f"{self._prefix}/{kind}_")
        found = {key.removeprefix(f"{self._prefix}/").partition("/")[0] for key in keys}
        for name in sorted(found.difference(self.names())):
            if _is_item(name, kind):
                self._delete(f"{name}/")
                self._store.delete(f"{self._prefix}/{name}/{COMPLETE}")  # another process may have just written it

    def _delete(self, prefix: str) -> None:
        for key in list(self._store.list(f"{self._prefix}/{prefix}")):
            self._store.delete(key)


def seal(folder: Path) -> Path:
    """Write the marker of an item whose other files are all there; its path."""
    marker = folder / COMPLETE
    write_json(marker, _facts(folder, (one for one in folder.rglob("*") if one.is_file() and one.name != COMPLETE)))
    return marker


def marker_of(folder: Path, paths: Iterable[Path]) -> bytes:
    """What the marker of a folder would say of those files in it; nothing is written."""
    return orjson.dumps(_facts(folder, paths), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _facts(folder: Path, paths: Iterable[Path]) -> Json:
    files = {
        path.relative_to(folder).as_posix(): {"sha256": file_digest(path), "num_bytes": path.stat().st_size}
        for path in paths
    }
    return {"files": dict(sorted(files.items()))}


def verify(folder: Path) -> Path:
    """The folder itself; MissingInputError without a marker, IntegrityError where a file is not what it says.

    Files under `training_state/` need not be there.
    """
    marker = folder / COMPLETE
    if not marker.is_file():
        raise MissingInputError(f"not complete: there is no {COMPLETE}", where=str(folder))
    for name, facts in orjson.loads(marker.read_bytes())["files"].items():
        path = folder / name
        if not path.is_file():
            if name.startswith(f"{STATE}/"):
                continue
            raise MissingInputError("no such file, though its item is complete", where=str(path))
        if file_digest(path) != facts["sha256"]:
            raise _damaged(str(path))
    return folder


def file_digest(path: Path) -> str:
    """SHA-256 of a file; MissingInputError, InputError."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise input_error(path, error) from error


def _damaged(where: str) -> IntegrityError:
    return IntegrityError("it is not what was written: its digest differs", where=where, hint="write it again")


def _is_item(name: str, kind: str) -> bool:
    return name.removeprefix(f"{kind}_").isdecimal()


def _order(name: str) -> tuple[list[int], str]:
    return [int(number) for number in _NUMBER.findall(name)], name
