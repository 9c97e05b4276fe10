"""A controller whose API server is away: it waits, is alive by its probe, and ends when it is told to."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import kopf
from cluster.api import wait_for
from cluster.control_plane import write_kubeconfig
from servers.s3 import free_port

from controller.api import connect
from controller.handlers import registry
from controller.reconciler import Reconciler
from controller.settings import Settings

if TYPE_CHECKING:
    import pytest

REFRAIN = str(Path(sys.executable).with_name("refrain"))


def test_it_is_alive_while_it_waits_for_the_api_server(tmp_path: Path) -> None:
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", f"https://127.0.0.1:{free_port()}", "nobody")
    config = tmp_path / "config.yaml"
    config.write_text("namespace: mail\n")
    health = free_port()
    ports = ["--health-port", str(health), "--metrics-port", str(free_port())]
    process = subprocess.Popen(
        [REFRAIN, "controller", "--config", str(config), *ports, "--log-format", "text"],
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:

        def is_alive() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{health}/healthz", timeout=5) as answer:
                    return bool(answer.status == 200)
            except OSError:  # not started yet
                return False

        wait_for(is_alive, 60, "its liveness probe answers")
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[1]
    finally:
        process.kill()
        process.wait()
    assert "again in 5 s" in said
    assert process.returncode == 128 + signal.SIGTERM or process.returncode == -signal.SIGTERM


def test_it_is_not_alive_once_nothing_was_looked_at_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe that kopf serves, with the API server gone for three resyncs."""
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", f"https://127.0.0.1:{free_port()}", "nobody")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    settings, port = Settings(namespace="mail", resync_seconds=60), free_port()
    reconciler = Reconciler(connect("mail"), lambda: settings, settings)
    reconciler.last_resync -= 200

    async def work() -> int:
        over = asyncio.Event()
        serving = asyncio.create_task(
            kopf.operator(
                registry=registry(reconciler),
                standalone=True,
                namespaces=["mail"],
                liveness_endpoint=f"http://127.0.0.1:{port}/healthz",
                stop_flag=over,
            )
        )
        try:
            return await asyncio.to_thread(wait_for, lambda: _status(f"http://127.0.0.1:{port}/healthz"), 30)
        finally:
            over.set()
            await asyncio.gather(serving, return_exceptions=True)

    assert asyncio.run(asyncio.wait_for(work(), 60)) == 500


def _status(url: str) -> int:
    """The HTTP status; 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
