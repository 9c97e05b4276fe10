"""The CustomResourceDefinition of the RetrainCycle, made from the models of `jobs.contracts.cycle`.

Pure. `tests/tools/generate.py` writes it to `crds/`, and `make check` compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from controller.objects import GROUP, KIND, PLURAL, VERSION
from controller.structural import Schema, structural_schema
from jobs.contracts.cycle.spec import CycleSpec, Metadata, RetrainCycle
from jobs.contracts.cycle.status import CycleStatus

CRD_FILE = f"crds/{GROUP}_{PLURAL}.yaml"
"""Where it lies in the repository."""
CHANGEABLE = frozenset({"spec.suspend", "spec.ttlSecondsAfterFinished", "spec.promotion.approve"})
"""What may change once the cycle has started."""

_HEADER = """\
# Generated from jobs/contracts/cycle by `make generate`; changes made here are lost.
"""


def _column(name: str, kind: str, path: str, description: str, *, wide: bool = False) -> Schema:
    column = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return {**column, "priority": 1} if wide else column


COLUMNS = [
    _column("State", "string", ".status.state", "Where it stands."),
    _column("Stage", "string", ".status.stage", "The stage that runs, or that it ended with."),
    _column("Progress%", "integer", ".status.progress.percent", "How much of the stage is done."),
    _column("Window", "integer", ".status.windowIdx", "The window that its new mail became."),
    _column("Delta", "number", ".status.decision.delta", "Gain over the adapter in service."),
    _column("Promoted", "string", '.status.conditions[?(@.type=="Promoted")].status', "Whether it is in service."),
    _column("Age", "date", ".metadata.creationTimestamp", "Since it was created."),
    _column("Archive", "string", ".spec.archive", "The archive it works on.", wide=True),
    _column("Attempt", "integer", ".status.attempt", "Retrains after too small a gain.", wide=True),
    _column(
        "Reason", "string", '.status.conditions[?(@.type=="Progressing")].reason', "Why it goes on or waits.", wide=True
    ),
    _column("Ended", "string", '.status.conditions[?(@.type=="Complete")].reason', "Why it ended.", wide=True),
]
"""What `kubectl get rcy` shows, and with `-o wide` the rest."""


def custom_resource_definition() -> Schema:
    """The whole object, in the order in which people read it."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                # `rc` alone is the ReplicationController's in every Kubernetes: kubectl names ours in a warning.
                "shortNames": ["rcy", "rc"],
                "categories": ["refrain"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "selectableFields": [{"jsonPath": ".spec.archive"}],
                    "additionalPrinterColumns": COLUMNS,
                    "schema": {"openAPIV3Schema": _schema()},
                }
            ],
        },
    }


def crd_yaml() -> str:
    """The object as YAML, with a line that says where it comes from."""
    return _HEADER + yaml.dump(custom_resource_definition(), Dumper=_Dumper, sort_keys=False, width=120)


def _schema() -> Schema:
    spec = structural_schema(CycleSpec)
    # Only the controller writes it: rules would cost what they cost, and defaults would be noise.
    status = structural_schema(CycleStatus, without={"default", "x-kubernetes-validations"})
    name = structural_schema(Metadata)["properties"]["name"]
    return {
        "type": "object",
        "description": RetrainCycle.__doc__,
        "required": ["spec"],
        "x-kubernetes-validations": list(_fixed(spec)),
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "properties": {"name": name}},
            "spec": spec,
            "status": {**status, "default": {"state": CycleStatus().state}},
        },
    }


def _fixed(schema: Schema, path: str = "spec") -> Iterator[Schema]:
    """Rules at the root, for only there the status is seen: one for each field that must stay as it is.

    A field inside which something may change is taken apart. Optional syntax (`self.?spec`) would be shorter, but
    the API server takes what it yields for unbounded.
    """
    for name, field in schema["properties"].items():
        inner = f"{path}.{name}"
        if inner in CHANGEABLE:
            continue
        if any(other.startswith(f"{inner}.") for other in CHANGEABLE):
            yield from _fixed(field, inner)
        else:
            is_always_there = name in schema.get("required", []) or "default" in field
            yield {
                "rule": f"{_NOT_STARTED} || {_same(inner) if is_always_there else _same_or_absent(inner)}",
                "message": f"{inner} is fixed once the cycle has started; create another cycle",
                "fieldPath": f".{inner}",
            }


_NOT_STARTED = "!has(oldSelf.status) || !has(oldSelf.status.startedAt)"


def _same(path: str) -> str:
    return f"self.{path} == oldSelf.{path}"


def _same_or_absent(path: str) -> str:
    return f"(has(self.{path}) ? has(oldSelf.{path}) && {_same(path)} : !has(oldSelf.{path}))"


class _Dumper(yaml.SafeDumper):
    """Writes everything out: no anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True
