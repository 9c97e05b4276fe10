"""The moto server, as a process of its own.

As its own command starts it, moto looks for a key and then writes it, and other threads may come in
between: on a busy machine 2 of 24 racing writers have won. So it is given one request at a time.

    python -m servers.moto PORT
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.s3 import S3Server, free_port, running


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A moto server; it takes any credentials."""
    port = free_port()
    server = S3Server(f"http://127.0.0.1:{port}", "moto", "moto-secret")
    command = [sys.executable, "-m", "servers.moto", str(port)]
    environment = server.environment() | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with running(command, environment, f"{server.endpoint}/moto-api/", tmp_path_factory.mktemp("moto") / "log"):
        yield server


def _serve(port: int) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from moto.server import MotoRequestHandler
    from werkzeug.serving import run_simple

    moto = DomainDispatcherApplication(create_backend_app)
    one_at_a_time = threading.Lock()

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with one_at_a_time:
            return list(moto(environ, start_response))

    run_simple("127.0.0.1", port, app, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
