"""Every store that the suite runs over: a folder, the moto server, MinIO."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from servers.s3 import S3Server

NewStore = Callable[[], str]
"""Makes an empty store and gives its URL."""
MANY_BYTES = bytes(range(256)) * 20_000
"""Some 5 MB: more than any buffer."""


@pytest.fixture
def new_folder(tmp_path: Path) -> NewStore:
    """Makes folder stores."""
    numbers = itertools.count()

    def new() -> str:
        return (tmp_path / f"store-{next(numbers)}").as_uri()

    return new


@pytest.fixture(params=["moto", "minio"])
def s3_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """Each S3 server, with the environment pointing to it."""
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    return server


@pytest.fixture(params=["folder", "moto", "minio"])
def new_store(request: pytest.FixtureRequest, new_folder: NewStore, monkeypatch: pytest.MonkeyPatch) -> NewStore:
    """Makes stores of each kind, with the environment pointing to the server."""
    if request.param == "folder":
        return new_folder
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return lambda: f"s3://{server.make_bucket()}/archive"
