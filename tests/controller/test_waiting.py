"""A controller whose API server is away: it waits, is alive by its probe, and ends when it is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from cluster.api import wait_for
from cluster.control_plane import write_kubeconfig
from servers.s3 import free_port

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
