"""A release of the chart on a test's control plane."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.api import wait_for
from cluster.programs import binary
from helm import CHART, NEEDED, helm, sets

if TYPE_CHECKING:
    from cluster.control_plane import ControlPlane

DEPLOYMENT = "apps/v1/Deployment"
ADAPTER = "refrain.dev/adapter"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


class Release:
    """A release in a namespace of its own."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self.control_plane, self.namespace = control_plane, namespace
        self.api = control_plane.api

    def helm(self, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        kubeconfig = {"KUBECONFIG": str(self.control_plane.kubeconfig)}
        return helm(*arguments, f"--namespace={self.namespace}", environment=kubeconfig, **options)

    def shell(self, script: str, **variables: str) -> str:
        """What a page's commands print: kubectl and refrain on this cluster, their `-n mail` being the namespace."""
        path = f"{binary('kubectl').parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "KUBECONFIG": str(self.control_plane.kubeconfig), **variables}
        script = script.replace("-n mail", f"-n {self.namespace}")
        done = subprocess.run(["sh", "-euc", script], env=environment, check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done.stdout

    def wait_for_replica_set(self, adapter: str) -> None:
        """Until what a roll-out can be undone to is there."""

        def there() -> bool:
            found = self.api.list("apps/v1/ReplicaSet", self.namespace)
            return any(
                one["spec"]["template"]["metadata"].get("annotations", {}).get(ADAPTER) == adapter for one in found
            )

        wait_for(there, what="the adapter's pods are wanted")

    def install(self, **values: Any) -> subprocess.CompletedProcess[str]:
        return self.helm("upgrade", "--install", "refrain", CHART, *sets(NEEDED | _dotted(values)))

    def adapter(self) -> str | None:
        template = self.api.get(DEPLOYMENT, "refrain-inference", self.namespace)["spec"]["template"]
        return template["metadata"].get("annotations", {}).get(ADAPTER)

    def promote(self, adapter: str) -> None:
        """As the controller does: applied on the server side, under its own name."""
        template = {"metadata": {"annotations": {ADAPTER: adapter}}}
        body = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "refrain-inference", "namespace": self.namespace},
            "spec": {"template": template},
        }
        self.api.apply(body, self.namespace, manager="refrain-controller")


def _dotted(values: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("__", "."): value for name, value in values.items()}
