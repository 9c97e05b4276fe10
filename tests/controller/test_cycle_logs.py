"""`refrain cycle` looking on at cycles on a real control plane: their logs, changes as they come, and bug reports."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster.api import wait_for
from cluster.kubelet import Play
from controller_commands import Commands, short
from controller_process import played, stage_of

if TYPE_CHECKING:
    from cluster.control_plane import ControlPlane

pytestmark = pytest.mark.cluster


def test_logs(cli: Commands) -> None:
    cli.printed["split"] = [b"step 1\n", b"step 2 \xff\n"]
    cli.hang_at("logs", "split")
    cli.operator.create("logs", archive="logs")
    job = cli.operator.wait_stage("logs", "split")
    wait_for(lambda: _phase(cli, job) == "Running")
    with cli.start("logs", "logs", "--follow", text=False) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"step 1\nstep 2 \xff\n"
    assert process.returncode == 0
    assert cli.cycle("logs", "logs", "parse").out.startswith("logs-parse-0-0-")
    before = cli.cycle("logs", "logs", "split", "--previous")
    assert before.code == 66
    assert "no pod before it of split is there" in before.err
    assert cli.cycle("logs", "logs", "promote").code == 66
    cli.cycle("delete", "logs", "--yes")


def _phase(cli: Commands, job: str) -> str:
    (pod,) = [pod for pod in cli.operator.pods() if pod["metadata"]["name"].startswith(job)]
    return str(pod["status"]["phase"])


def test_a_pod_that_has_not_started_has_no_logs(cli: Commands) -> None:
    cli.rules["slow"] = lambda pod: Play(never_starts=True) if stage_of(pod)[0] == "parse" else played(pod)
    cli.operator.create("slow", archive="slow")
    cli.operator.wait_stage("slow", "parse")
    wait_for(lambda: cli.cycle("logs", "slow").code == 75, 20, "the API server's words")
    said = cli.cycle("logs", "slow").err
    assert "waiting to start: ContainerCreating" in said
    assert "--follow waits for it" in said
    cli.cycle("delete", "slow", "--yes")


def test_a_bug_report(cli: Commands, control_plane: ControlPlane, tmp_path: Path) -> None:
    namespace = cli.operator.namespace
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": {"KEY": "hunter2"}}
    control_plane.api.create(secret, namespace)
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "refrain-controller", "labels": {"app.kubernetes.io/name": "refrain"}},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {
                    "containers": [{"name": "c", "image": "i", "env": [{"name": "HF_TOKEN", "value": "hunter2"}]}]
                },
            },
        },
    }
    control_plane.api.create(deployment, namespace)
    cli.rules["gathered"] = short
    cli.printed["window"] = [b"window 3 by http://ann:hunter2@proxy:3128\n"]
    cli.operator.create("gathered", archive="gathered")
    cli.operator.wait("gathered", "Skipped")
    file = tmp_path / "report.tar.gz"
    done = cli.cycle("gather", "gathered", "-o", file)
    assert (done.code, done.err) == (0, ""), done
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as archive:
        found = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
    assert b"hunter2" not in b"".join(found.values())
    assert json.loads(found["gathered/cycle.json"])["status"]["state"] == "Skipped"
    assert len([name for name in found if name.startswith("gathered/jobs/")]) == 3
    assert len([name for name in found if name.startswith("gathered/pods/")]) == 3
    (window,) = [name for name in found if name.startswith("gathered/logs/") and "-window-" in name]
    assert found[window] == b"window 3 by http://(removed)@proxy:3128\n"
    assert "gathered/controller/deployments/refrain-controller.json" in found
    assert any(event["reason"] == "TooFewMessages" for event in json.loads(found["gathered/events.json"]))
    assert b"gathered  gathered  Skipped" in found["gathered/archive.txt"]
    assert list(tmp_path.iterdir()) == [file]
    unwritable = cli.cycle("gather", "gathered", "-o", tmp_path / "no" / "x.tar.gz")
    assert unwritable.code == 73


def test_watching_on_a_terminal_ends_cleanly_with_control_c(cli: Commands) -> None:
    cli.hang_at("terminal", "split")
    cli.operator.create("terminal", archive="terminal")
    cli.operator.wait_stage("terminal", "split")
    ours, theirs = pty.openpty()
    process = cli.start("watch", "terminal", stdout=theirs)
    os.close(theirs)
    shown = b""
    while b"Running: split, for " not in shown:
        shown += os.read(ours, 1000)
    assert b"parse: done in " in shown
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # the other end is closed
        while part := os.read(ours, 1000):
            shown += part
    os.close(ours)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == "terminal goes on; refrain cycle watch terminal follows it again\n"
    assert shown.endswith(b"\r\x1b[K")
    cli.cycle("delete", "terminal", "--yes")


def test_watching_survives_the_api_server(cli: Commands, control_plane: ControlPlane) -> None:
    cli.hang_at("away", "split")
    cli.operator.create("away", archive="away")
    cli.operator.wait_stage("away", "split")
    process = cli.start("watch", "away")
    assert process.stdout is not None
    assert "parse: done in" in process.stdout.readline()
    control_plane.stop_apiserver()
    assert process.stderr is not None
    assert "trying again" in process.stderr.readline()
    control_plane.start_apiserver()
    cli.go_on("away", "away")
    out, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert out.splitlines()[-1].startswith("Skipped: ")
    assert said == ""
