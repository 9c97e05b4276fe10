"""A MinIO server, built from its Go module by `make test-servers`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from components import require
from servers.s3 import S3Server, free_port, running


@pytest.fixture(scope="session")
def minio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A MinIO server, which checks signatures and knows one user."""
    with running_minio(tmp_path_factory.mktemp("minio")) as server:
        yield server


@contextmanager
def running_minio(folder: Path, certificates: Path | None = None) -> Iterator[S3Server]:
    """A MinIO server over a folder, with TLS where it is given certificates, while the block runs."""
    cache = Path(os.environ.get("REFRAIN_CACHE") or Path.home() / ".cache" / "refrain")
    binary = cache / "bin" / "minio"
    require(os.access(binary, os.X_OK), f"no MinIO: {binary} is not there (`make test-servers` builds it)")
    address = f"127.0.0.1:{free_port()}"
    server = S3Server(f"{'https' if certificates else 'http'}://{address}", "minio", "minio-secret")
    environment = {
        "MINIO_ROOT_USER": server.access_key,
        "MINIO_ROOT_PASSWORD": server.secret_key,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
    }
    command = [str(binary), "server", str(folder / "data"), "--address", address, "--quiet"]
    if certificates:
        command += ["--certs-dir", str(certificates)]
    with running(command, environment, f"{server.endpoint}/minio/health/ready", folder / "log"):
        yield server
