"""Every rendered object, and every example, against the schemas of the API server and of the resource definitions."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from cluster import programs
from helm import CASES, CRDS, NAMES, ROOT, case, helm, monitoring_crds, of_kind, template, words
from kubernetes_schemas import LOCATION, write_schemas

from controller.crd import custom_resource_definition

if TYPE_CHECKING:
    from cluster.control_plane import ControlPlane

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def schemas(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of them."""
    folder = tmp_path_factory.mktemp("schemas")
    definitions = [yaml.safe_load(path.read_text()) for path in monitoring_crds()]
    write_schemas(folder, control_plane.api, [custom_resource_definition(), *definitions])
    return folder


def conform(schemas: Path, text: str) -> tuple[int, str]:
    """kubeconform's exit code, and what it says of what is invalid."""
    command = [
        programs.binary("kubeconform"),
        "-strict",
        "-output=json",
        "-summary",
        f"-schema-location={schemas}/{LOCATION}",
    ]
    done = subprocess.run(command, input=text, check=False, capture_output=True, text=True)
    said = json.loads(done.stdout)
    assert not said["summary"]["skipped"]
    assert said["summary"]["valid"] or said["resources"]
    return done.returncode, words(" ".join(one["msg"] for one in said["resources"]))


@pytest.mark.parametrize("name", NAMES)
def test_the_chart(schemas: Path, name: str) -> None:
    assert conform(schemas, template(f"--values={CASES / name}.values.yaml").stdout) == (0, "")


def test_the_definitions(schemas: Path) -> None:
    assert conform(schemas, helm("template", "refrain-crds", CRDS).stdout) == (0, "")


@pytest.mark.parametrize("name", ["minimal", "try-out", "cloud"])
def test_the_scheduled_cycle(schemas: Path, name: str) -> None:
    (text,) = [
        one["data"]["template.yaml"]
        for one in of_kind(case(name), "ConfigMap")
        if "template.yaml" in one.get("data", {})
    ]
    assert conform(schemas, text) == (0, "")


@pytest.mark.parametrize("path", [ROOT / "examples" / "cycle.yaml", ROOT / "examples" / "operator" / "rbac.yaml"])
def test_the_examples(schemas: Path, path: Path) -> None:
    assert conform(schemas, path.read_text()) == (0, "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, imagee: b}]}}", "imagee"),
        ("{apiVersion: refrain.dev/v1alpha1, kind: RetrainCycle, metadata: {name: a}, spec: {archiv: a}}", "archiv"),
        (
            "{apiVersion: monitoring.coreos.com/v1, kind: PodMonitor, metadata: {name: a}, spec: {selctor: {}}}",
            "selctor",
        ),
        ("{apiVersion: v1, kind: Podd, metadata: {name: a}}", "could not find schema for Podd"),
    ],
)
def test_what_is_wrong_is_found(schemas: Path, text: str, message: str) -> None:
    code, said = conform(schemas, text)
    assert code == 1
    assert message in said
