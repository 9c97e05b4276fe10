"""The node itself: pods run, the control plane comes back, and nothing is left, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cluster.api import wait_for
from components import require

from node import machine, pause

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
TESTS = Path(__file__).parents[1]

WAITS = f"""\
set -e
until kubectl get serviceaccount default; do sleep 0.1; done
kubectl run waits --image={pause.IMAGE} --restart=Never
kubectl wait --for=condition=Ready pod/waits --timeout=60s\
"""
SCRIPT = f"""
{WAITS}
kill -KILL $(cat $REFRAIN_NODE/kube-apiserver.pid)
sleep 3
for i in 1 2 3 4 5 6 7 8 9 10; do kubectl get --raw /readyz && break; sleep 1; done
kubectl get pod waits --output=jsonpath='{{.status.phase}} at {{.status.podIP}}'
"""


def begun(script: str) -> subprocess.Popen[str]:
    require(not machine.lacks(), machine.lacks())
    command = [sys.executable, "-m", "node", "run", "bash", "-c", script]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REFRAIN_NODE")}
    return subprocess.Popen(
        command, env=environment | {"PYTHONPATH": str(TESTS)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def leftovers() -> list[str]:
    """Processes, mounts and control groups of a node."""
    state = str(machine.state_folder())
    groups = [str(root / machine.CGROUP) for root in machine.hierarchies() if (root / machine.CGROUP).exists()]
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if f"{state}/" in line]
    commands = subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True).stdout.splitlines()
    return groups + mounts + [line for line in commands if f"{state}/" in line]


def test_a_pod_runs_and_nothing_is_left() -> None:
    node = begun(SCRIPT)
    said, complained = node.communicate()
    assert node.returncode == 0, complained
    assert said.endswith("okRunning at 198.51.100.2"), said
    assert "kube-apiserver has ended (-9); it is started again" in complained
    assert leftovers() == []
    assert not (machine.state_folder() / "run").exists()


def test_it_says_what_the_command_said() -> None:
    node = begun("exit 7")
    assert node.communicate()
    assert node.returncode == 7


def test_a_killed_node_leaves_no_process_and_the_next_one_clears_the_rest() -> None:
    node = begun(f"{WAITS}; sleep 99")
    assert node.stdout is not None
    while "condition met" not in node.stdout.readline():
        assert node.poll() is None
    node.send_signal(signal.SIGKILL)
    node.communicate()
    wait_for(lambda: not [line for line in leftovers() if not line.startswith("/sys")], what="its processes have ended")
    node = begun("kubectl get pods --all-namespaces")
    _, complained = node.communicate()
    assert node.returncode == 0, complained
    assert "No resources found" in complained
    assert leftovers() == []
