"""`refrain upload`: mail, or a model's folder, into a store that stages read from."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.cli import options
from jobs.contracts.errors import InputError, MissingInputError, UsageError


@click.command(name="upload")
@click.argument("source", type=options.Place(path_type=Path), metavar="PATH")
@click.argument("url", metavar="URL", callback=options.store_url)
def command(*, source: Path, url: str) -> None:
    """Copy a file or a folder to a store: s3://bucket/prefix, or file:///folder.

    A file becomes one object, named by the URL, or like the file where the URL ends with a slash. A folder's files
    come under the URL; a `_COMPLETE.json` with their digests comes last, so that a stage which fetches a model
    from there takes it only whole, and fetches it once. Files and folders whose names begin with a dot are passed
    over. What is there already is replaced.

    \b
      refrain upload 2026-W47.mbox.gz s3://mail/incoming/
      refrain upload models/base s3://refrain-models/base
    """
    if not source.exists():
        raise MissingInputError("no such file or folder", where=str(source))
    num_files, num_bytes = _folder(source, url) if source.is_dir() else _file(source, url)
    click.echo(f"{url}: {num_files:,} {'file' if num_files == 1 else 'files'}, {num_bytes:,} bytes")


def _file(path: Path, url: str) -> tuple[int, int]:
    from jobs.contracts.store import StoreOptions, open_store

    place, _, name = url.rpartition("/")
    if place.endswith("/"):  # s3://bucket
        raise UsageError(f"no object is named by {url}", hint=f"write {url}/ for one named like the file")
    open_store(place, StoreOptions.from_environment()).upload(name or path.name, path)
    return 1, path.stat().st_size


def _folder(folder: Path, url: str) -> tuple[int, int]:
    from jobs.contracts.store import StoreOptions, open_store
    from jobs.items import COMPLETE, marker_of
    from jobs.progress import progress

    paths = _files_of(folder)
    if not paths:
        raise InputError("there is no file in it", where=str(folder))
    store = open_store(url.rstrip("/"), StoreOptions.from_environment())
    marker = marker_of(folder, paths)
    store.delete(COMPLETE)  # until all is there, none of it counts
    for path in progress(paths, "upload", unit="file"):
        store.upload(path.relative_to(folder).as_posix(), path)
    store.put(COMPLETE, marker)
    return len(paths), sum(path.stat().st_size for path in paths)


def _files_of(folder: Path) -> list[Path]:
    from jobs.items import COMPLETE

    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != COMPLETE)
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
