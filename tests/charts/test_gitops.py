"""The health snippets for Argo CD and Flux, run over cycles in every state; and the values in their examples.

Argo CD's is Lua 5.1, run by lupa. Flux's is CEL: an API server judges it, as a rule of a resource made for that.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, get_args

import pytest
import yaml
from cluster.api import ApiError, wait_for
from helm import ROOT, rendered, sets
from lupa import lua51

from jobs.contracts.cycle.status import ENDED, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.api import Api, Object
    from cluster.control_plane import ControlPlane

EXAMPLES = ROOT / "examples" / "gitops"
HEALTH: dict[State | None, str] = {
    None: "Progressing",
    "Pending": "Progressing",
    "Queued": "Progressing",
    "Running": "Progressing",
    "Suspended": "Suspended",
    "AwaitingApproval": "Suspended",
    "Promoted": "Healthy",
    "NotPromoted": "Healthy",
    "Skipped": "Healthy",
    "Failed": "Degraded",
}


def cycle(state: State | None) -> Object:
    """A cycle in a state, with the conditions that the controller gives it; None: it has not seen it yet."""
    if state is None:
        return {"metadata": {"name": "w1"}}
    said = [("Progressing", "True", "it goes on")]
    if state in ENDED:
        succeeded = "False" if state == "Failed" else "True"
        promoted = "True" if state == "Promoted" else "False"
        said = [("Complete", "True", "it has ended"), ("Succeeded", succeeded, f"so it ended as {state}")]
        said += [("Promoted", promoted, f"as of promotion: {state}")] if state != "Failed" else []
    conditions = [{"type": kind, "status": status, "reason": "R", "message": text} for kind, status, text in said]
    return {"metadata": {"name": "w1"}, "status": {"state": state, "conditions": conditions}}


def documents(name: str) -> list[Object]:
    return list(yaml.safe_load_all((EXAMPLES / name).read_text()))


def test_every_state_is_thought_of() -> None:
    assert set(HEALTH) == {None, *get_args(State)}


# ---- Argo CD


def _lua(value: Any, runtime: Any) -> Any:
    if isinstance(value, dict):
        return runtime.table_from({key: _lua(one, runtime) for key, one in value.items()})
    if isinstance(value, list):
        return runtime.table_from([_lua(one, runtime) for one in value])
    return value


@pytest.mark.parametrize("state", HEALTH, ids=str)
def test_argo_cd_says_how_a_cycle_is_doing(state: State | None) -> None:
    (config,) = documents("argocd-health.yaml")
    ((key, script),) = config["data"].items()
    assert key == "resource.customizations.health.refrain.dev_RetrainCycle"
    runtime = lua51.LuaRuntime()
    runtime.globals()["obj"] = _lua(cycle(state), runtime)
    said = runtime.execute(script)
    assert said["status"] == HEALTH[state]
    if state == "Failed":
        assert said["message"] == "so it ended as Failed"


@pytest.mark.parametrize(
    ("file", "kind", "values_at"),
    [
        ("argocd-applications.yaml", "Application", ("source", "helm", "valuesObject")),
        ("flux.yaml", "HelmRelease", ("values",)),
    ],
)
def test_the_examples_values_are_taken(file: str, kind: str, values_at: tuple[str, ...]) -> None:
    release = next(one for one in documents(file) if (one["kind"], one["metadata"]["name"]) == (kind, "refrain"))
    values = release["spec"]
    for step in values_at:
        values = values[step]
    objects = rendered(*sets(values))
    deployments = {one["metadata"]["name"] for one in objects if one["kind"] == "Deployment"}
    assert "name: refrain-inference" in (EXAMPLES / file).read_text()
    assert "refrain-inference" in deployments
    assert "/spec/template/metadata/annotations/refrain.dev~1adapter" in (EXAMPLES / file).read_text()
    assert not [one for one in objects if one["kind"] == "Secret"]  # a renderer would make it anew each time


# ---- Flux


@pytest.fixture(scope="module")
def judge(control_plane: ControlPlane) -> Callable[[str, Object], bool]:
    """What an API server makes of a CEL expression over a cycle: a rule of a resource of the expression's own."""
    made: dict[str, str] = {}

    def evaluated(expression: str, one: Object) -> bool:
        if expression not in made:
            made[expression] = f"judge{len(made)}"
            control_plane.apply(_definition(made[expression], expression))
        kind = made[expression].capitalize()
        body = {**one, "apiVersion": "tests.refrain.dev/v1", "kind": kind}
        return _is_taken(control_plane.api, body)

    return evaluated


def _definition(name: str, expression: str) -> Object:
    texts = {key: {"type": "string"} for key in ("type", "status", "reason", "message")}
    conditions = {"type": "array", "items": {"type": "object", "properties": texts}, "maxItems": 16}
    status = {"type": "object", "properties": {"state": {"type": "string"}, "conditions": conditions}}
    # Flux gives the object's fields as variables; a rule has them below `self`.
    rule = re.sub(r"\bstatus\.conditions", "self.status.conditions", expression)
    schema = {
        "type": "object",
        "properties": {"status": {**status, "default": {}}},
        "x-kubernetes-validations": [{"rule": rule, "message": "the expression is false"}],
    }
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{name}s.tests.refrain.dev"},
        "spec": {
            "group": "tests.refrain.dev",
            "scope": "Cluster",
            "names": {"kind": name.capitalize(), "plural": f"{name}s", "singular": name},
            "versions": [version],
        },
    }


def _is_taken(api: Api, body: Object) -> bool:
    def asked() -> list[bool]:
        path = api.path(f"{body['apiVersion']}/{body['kind']}")
        try:
            api.request("POST", path, body, query={"dryRun": "All", "fieldValidation": "Strict"})
        except ApiError as error:
            if error.code != 422 or "the expression is false" not in str(error):
                raise
            return [False]
        return [True]

    return wait_for(asked, what="the resource is served")[0]


@pytest.mark.cluster
@pytest.mark.parametrize("state", HEALTH, ids=str)
def test_flux_says_how_a_cycle_is_doing(judge: Callable[[str, Object], bool], state: State | None) -> None:
    """In the order in which Flux asks: in progress, failed, current."""
    kustomization = next(one for one in documents("flux.yaml") if one["kind"] == "Kustomization")
    (expressions,) = kustomization["spec"]["healthCheckExprs"]
    answers = {name: judge(expressions[name], cycle(state)) for name in _asked(state)}
    expected = {"Healthy": "current", "Degraded": "failed"}.get(HEALTH[state], "inProgress")
    assert next(name for name in ("inProgress", "failed", "current") if answers[name]) == expected


def _asked(state: State | None) -> tuple[str, ...]:
    """The later expressions are asked only where the first is false, and may rely on that."""
    return ("inProgress", "failed", "current") if state is not None else ("inProgress",)
