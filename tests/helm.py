"""Helm and kubeconform on the charts, and what came out, as objects."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from cluster import programs
from components import require

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cluster.api import Object

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "refrain"
CRDS = ROOT / "charts" / "refrain-crds"
CASES = ROOT / "tests" / "charts" / "data"
NAMES = sorted(path.name.removesuffix(".values.yaml") for path in CASES.glob("*.values.yaml"))
"""Of the values files that tests render."""
NEEDED = {"image.registry": "registry.example/team", "store.url": "s3://refrain", "store.existingSecret": "refrain-s3"}
"""Without these there is nothing to render."""
RELEASE, NAMESPACE = "refrain", "mail"


def helm(
    *arguments: object, check: bool = True, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Helm, with nothing of this machine's own settings; what it says on failure is in the AssertionError."""
    done = subprocess.run(
        [programs.binary("helm"), *map(str, arguments)],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **(environment or {})},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 or not check, f"helm {' '.join(map(str, arguments))}: {done.stderr}"
    return done


def sets(values: Mapping[str, Any]) -> list[str]:
    """Values as arguments, typed as in JSON."""
    return [f"--set-json={name}={json.dumps(value)}" for name, value in values.items()]


def template(
    *arguments: object, namespace: str = NAMESPACE, release: str = RELEASE, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """`helm template` of the chart."""
    return helm("template", release, CHART, f"--namespace={namespace}", "--kube-version=1.35", *arguments, check=check)


def rendered(*arguments: object, **options: Any) -> list[Object]:
    """What the chart is made into, in Helm's order."""
    return [one for one in yaml.safe_load_all(template(*arguments, **options).stdout) if one]


def case(name: str) -> list[Object]:
    """What the chart is made into with one of the values files."""
    return rendered(f"--values={CASES / name}.values.yaml")


def of_kind(objects: Iterable[Object], *kinds: str) -> Iterator[Object]:
    return (one for one in objects if one["kind"] in kinds)


def the(objects: Iterable[Object], kind: str, name: str) -> Object:
    """The one of that kind and name."""
    (found,) = (one for one in of_kind(objects, kind) if one["metadata"]["name"] == name)
    return found


def pod_specs(objects: Iterable[Object]) -> Iterator[tuple[str, Object]]:
    """The pods that these objects make: name of the owner, template."""
    for one in objects:
        spec = one.get("spec") or {}
        if one["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if "template" in spec and "spec" in spec["template"]:
            yield one["metadata"]["name"], spec["template"]


def alerts(objects: Iterable[Object]) -> list[Object]:
    (rules,) = of_kind(objects, "PrometheusRule")
    return [rule for group in rules["spec"]["groups"] for rule in group["rules"]]


def monitoring_crds() -> list[Path]:
    """The resources of Prometheus' operator, as `make test-servers` brings them."""
    cache = Path(os.environ.get("REFRAIN_CACHE") or Path.home() / ".cache" / "refrain")
    found = sorted((cache / "crds").glob("*.yaml"))
    require(found, f"no CRDs of Prometheus' operator: {cache / 'crds'} has none (`make test-servers` brings them)")
    return found


def words(text: str) -> str:
    """What a program says, on one line."""
    return re.sub(r"\s+", " ", text).strip()
