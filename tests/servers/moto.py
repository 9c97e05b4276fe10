"""The moto server, as a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from servers.s3 import S3Server, free_port, running


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A moto server; it takes any credentials."""
    port = free_port()
    server = S3Server(f"http://127.0.0.1:{port}", "moto", "moto-secret")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    log = tmp_path_factory.mktemp("moto") / "log"
    with running(command, server.environment(), f"{server.endpoint}/moto-api/", log):
        yield server
