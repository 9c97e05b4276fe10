"""The controller as a process of its own, with its own service account and the Role that users apply."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from cluster import programs
from cluster.api import Object, wait_for
from cluster.kubelet import Play
from controller_world import RESULTS, spec_of
from servers.s3 import free_port

from jobs.contracts.termination import encode_error, encode_result

if TYPE_CHECKING:
    from cluster.control_plane import ControlPlane

ROOT = Path(__file__).parents[1]
CRD = ROOT / "crds" / "refrain.dev_retraincycles.yaml"
ROLE = ROOT / "examples" / "operator" / "rbac.yaml"
ACCOUNT = "refrain-controller"
CYCLES = "refrain.dev/v1alpha1/RetrainCycle"


@dataclass
class Operator:
    """One namespace with a controller that can be started, killed and started again."""

    control_plane: ControlPlane
    namespace: str
    folder: Path
    kubeconfig: Path
    settings: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    metrics_port: int = 0
    health_port: int = 0
    log_format: str = "text"

    @property
    def user(self) -> str:
        return f"system:serviceaccount:{self.namespace}:{ACCOUNT}"

    # ---- its process

    def configure(self, **settings: Any) -> Path:
        """Write down its settings, some of them changed; it reads them at its start and at each resync."""
        self.settings |= settings
        config, written = self.folder / "config.yaml", self.folder / "config.yaml.new"
        written.write_text(yaml.safe_dump({"namespace": self.namespace, "resyncSeconds": 30} | self.settings))
        return written.replace(config)

    def arguments(self) -> list[str]:
        """Its arguments, with its settings written down."""
        config = self.configure()
        self.metrics_port, self.health_port = free_port(), free_port()
        ports = ["--health-port", str(self.health_port), "--metrics-port", str(self.metrics_port)]
        return ["--config", str(config), *ports, "--log-format", self.log_format, "--verbose"]

    def start(self) -> Operator:
        """Start it; it works in the background."""
        command = [str(Path(sys.executable).with_name("refrain")), "controller", *self.arguments()]
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        environment.pop("KUBERNETES_SERVICE_HOST", None)
        with (self.folder / "controller.log").open("ab") as output:
            self.process = programs.start(command, output, env=environment, cwd=self.folder)
        return self

    def kill(self) -> None:
        """As a node that loses power does."""
        if self.process is not None:
            programs.signal_group(self.process, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def said(self) -> str:
        return (self.folder / "controller.log").read_text(errors="replace")[-6000:]

    # ---- cycles

    def create(self, name: str, **changes: Any) -> Object:
        document = {
            "apiVersion": "refrain.dev/v1alpha1",
            "kind": "RetrainCycle",
            "metadata": {"name": name},
            "spec": spec_of(**changes),
        }
        return self.control_plane.api.create(document, self.namespace)

    def get(self, name: str) -> Object:
        return self.control_plane.api.get(CYCLES, name, self.namespace)

    def status(self, name: str) -> Object:
        found: Object = self.get(name).get("status") or {}
        return found

    def edit(self, name: str, **changes: Any) -> None:
        self.control_plane.api.patch(CYCLES, name, self.namespace, {"spec": changes})

    def annotate(self, name: str, **annotations: str) -> None:
        patch = {"metadata": {"annotations": {f"refrain.dev/{key}": text for key, text in annotations.items()}}}
        self.control_plane.api.patch(CYCLES, name, self.namespace, patch)

    def wait(self, name: str, state: str, seconds: float = 90) -> Object:
        """The status, once the cycle is in that state."""

        def is_there() -> Object | None:
            if self.process is not None and self.process.poll() is not None:
                raise RuntimeError(f"the controller has ended: {self.said()}")
            status = self.status(name)
            assert status.get("state") == state, f"{status.get('state')} {status.get('stage')}"
            return status

        try:
            return wait_for(is_there, seconds, f"{name} is {state}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(self.status(name), indent=1)[-3000:]}\n{self.said()}") from None

    def wait_stage(self, name: str, stage: str, seconds: float = 90) -> str:
        """The name of its Job, once that stage runs in a pod."""

        def runs() -> str:
            status = self.status(name)
            entries = status.get("stages") or [{}]
            assert (entries[-1].get("name"), entries[-1].get("state")) == (stage, "Running"), entries[-1]
            found = [pod for pod in self.pods() if pod["metadata"]["name"].startswith(entries[-1]["job"])]
            assert found, "no pod yet"
            return str(entries[-1]["job"])

        try:
            return wait_for(runs, seconds, f"{name} runs {stage}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said()}") from None

    def condition(self, name: str, kind: str) -> tuple[str, str, str]:
        found = next((one for one in self.status(name).get("conditions", []) if one["type"] == kind), {})
        return found.get("status", ""), found.get("reason", ""), found.get("message", "")

    def jobs(self) -> list[Object]:
        return self.control_plane.api.list("batch/v1/Job", self.namespace)

    def pods(self) -> list[Object]:
        return self.control_plane.api.list("v1/Pod", self.namespace)

    def events(self) -> list[Object]:
        return [
            one
            for one in self.control_plane.api.list("v1/Event", self.namespace)
            if one["involvedObject"]["kind"] == "RetrainCycle"
        ]


@contextlib.contextmanager
def operator(
    control_plane: ControlPlane, namespace: str, folder: Path, kubeconfig: Path | None = None, **settings: Any
) -> Iterator[Operator]:
    """A controller for a namespace, not yet started; ended with the block."""
    control_plane.apply(CRD.read_text())
    control_plane.apply(ROLE.read_text(), namespace)
    kubeconfig = kubeconfig or control_plane.service_account_kubeconfig(namespace, ACCOUNT)
    made = Operator(control_plane, namespace, folder, kubeconfig, settings)
    try:
        yield made
    finally:
        made.kill()


def stage_of(pod: Object) -> tuple[str, int]:
    labels = pod["metadata"]["labels"]
    words = pod["spec"]["containers"][0]["args"]
    stage = words[1] if words[0] == "result" else words[words.index("--only") + 1]
    return stage, int(labels["refrain.dev/attempt"])


def played(pod: Object, results: dict[str, Object] = RESULTS, **play: Any) -> Play:
    """A pod whose stage ends well, with a result."""
    stage, attempt = stage_of(pod)
    return Play(message=encode_result(stage, attempt, results[stage]).decode(), **play)


def failing(pod: Object, error: BaseException) -> Play:
    """A pod whose stage fails."""
    stage, attempt = stage_of(pod)
    return Play(exit_code=getattr(error, "exit_code", 1), message=encode_error(stage, attempt, error).decode())
