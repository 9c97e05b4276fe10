"""The RetrainCycle in use: its defaults, what is fixed once it has started, its status, and kubectl."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cluster import programs
from cluster.api import ApiError, Object, wait_for
from cluster.cycle_server import KIND, Server, document
from cyclespecs import MINIMAL, fields, train

from controller.crd import CHANGEABLE, COLUMNS, custom_resource_definition
from jobs.contracts.cycle import CycleSpec
from jobs.contracts.cycle.status import (
    Adapter,
    Condition,
    CycleStatus,
    Decision,
    LogHead,
    Progress,
    Promotion,
    StageStatus,
)

if TYPE_CHECKING:
    from cluster.control_plane import ControlPlane

EXAMPLES = Path(__file__).parents[2] / "examples"
SCHEMA = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
SPEC = SCHEMA["properties"]["spec"]
RULES = "x-kubernetes-validations"


@pytest.fixture(scope="module")
def server(control_plane: ControlPlane) -> Server:
    control_plane.apply(custom_resource_definition())
    return Server(control_plane.api, control_plane.new_namespace())


@pytest.mark.cluster
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"split": {"ratios": {"train": 60}}, "selection": {"weights": {"ppl": 1}}},
        {"training": {"earlyStopping": {}}, "model": {"base": "b", "lora": {"rank": 8}}, "promotion": None},
        train(tolerations=[{"key": "gpu"}], resources={"limits": {"nvidia.com/gpu": 1}}),
    ],
)
def test_defaults_are_the_models(server, given):
    spec = MINIMAL | given
    models = CycleSpec.model_validate(spec).model_dump(by_alias=True, exclude_none=True)
    assert server.created(document(spec))["spec"] == models


# ---- once it has started

CHANGES: dict[str, Any] = {
    "spec.archive": "other",
    "spec.store": {"region": "eu-1"},
    "spec.model": {"lora": {"rank": 8}},
    "spec.sources": [{"mbox": "b"}],
    "spec.split": {"seed": 1},
    "spec.window": {"active": 2},
    "spec.filters": {"exclude": [{"from": "x"}]},
    "spec.persona": ["ann@example.org"],
    "spec.rehearsal": {"ratio": "1:5"},
    "spec.retention": {"cycles": 9},
    "spec.training": {"earlyStopping": {"patience": 9}},
    "spec.evaluation": {"topK": 9},
    "spec.selection": {"weights": {"ppl": 0.4}},
    "spec.promotion.mode": "Manual",
    "spec.promotion.gate": {"minThreads": 30},
    "spec.promotion.timeoutSeconds": 5,
    "spec.promotion.approvalTimeoutSeconds": 5,
    "spec.stages": {"train": {"affinity": {"nodeAffinity": {"a": {"b": ["d"]}}}}},
    "spec.deadlineSeconds": 5,
    "spec.suspend": True,
    "spec.ttlSecondsAfterFinished": 5,
    "spec.promotion.approve": "a" * 64,
}
"""A change of every field that a rule may speak of."""
STARTED: Object = MINIMAL | train(affinity={"nodeAffinity": {"a": {"b": ["c"]}}})


def patch_of(path: str) -> Object:
    patch = CHANGES[path]
    for step in reversed(path.split(".")):
        patch = {step: patch}
    return patch


def test_every_field_is_fixed_or_known_to_change():
    fixed = {rule["fieldPath"].removeprefix(".") for rule in SCHEMA[RULES]}
    assert fixed | CHANGEABLE == set(CHANGES)
    assert not fixed & CHANGEABLE
    leaves = {f"spec.{path}" for path, field in fields(SPEC) if "properties" not in field}
    assert [leaf for leaf in leaves if not any(f"{leaf}.".startswith(f"{path}.") for path in CHANGES)] == []


@pytest.mark.cluster
def test_a_cycle_that_waits_may_be_changed(server):
    server.created(document(STARTED, "waits"), keep=True)
    for path in CHANGES:
        server.patched("waits", patch_of(path))


@pytest.mark.cluster
def test_a_cycle_that_has_started_is_fixed(server):
    server.created(document(STARTED, "started"), keep=True)
    server.patched("started", {"status": {"startedAt": TIME}}, "status", keep=True)
    for path in sorted(set(CHANGES) - CHANGEABLE):
        with pytest.raises(ApiError, match=rf"{path} is fixed once the cycle has started; create another") as caught:
            server.patched("started", patch_of(path))
        assert len(caught.value.status["details"]["causes"]) == 1
    for path in CHANGEABLE:
        server.patched("started", patch_of(path), keep=True)
    server.patched("started", {"spec": {"promotion": {"approve": None}}})
    server.patched("started", {"status": {"state": "Running"}}, "status")


@pytest.mark.cluster
def test_a_rule_can_be_broken_by_no_change_either(server):
    server.created(document(MINIMAL, "changed"), keep=True)
    with pytest.raises(ApiError, match="windowOverlap must be less than windowSize"):
        server.patched("changed", {"spec": {"split": {"windowSize": 5}}})


# ---- status

TIME = "2026-01-01T00:00:00Z"
STATUS = CycleStatus(
    observed_generation=1,
    state="Running",
    stage="train",
    attempt=1,
    started_at=TIME,
    window_idx=212,
    progress=Progress(percent=43.7, eta_seconds=1260.5, loss=2.13, at=TIME),
    log=LogHead(seq=318, sha256="a" * 64),
    supersedes=["uid"],
    taken_sources=[{"mbox": "s3://mail/a"}],  # type: ignore[list-item]
    stages=[
        StageStatus(name="parse", state="Succeeded", job="j0", started_at=TIME, result={"num": 3, "a": [{"b": 1.5}]}),
        StageStatus(name="train", attempt=1, run=2, state="Running", job="j1", started_at=TIME, message="goes on"),
    ],
    candidate=Adapter(adapter="adapters/w1", sha256="b" * 64, scores={"val_perplexity": 5.5}),
    decision=Decision(outcome="Promote", reason="Better", delta=0.031, interval=[0.012, 0.049]),
    promotion=Promotion(phase="RollingOut", adapter=f"adapters/w1@{'b' * 64}", started_at=TIME),
    retry="1",
    conditions=[
        Condition(type="Accepted", status="True", reason="Accepted", last_transition_time=TIME),
        Condition(type="Promoted", status="False", reason="RollingOut", message="…", last_transition_time=TIME),
    ],
)


def written(status: CycleStatus) -> Object:
    return {"status": status.model_dump(by_alias=True, exclude_none=True)}


@pytest.mark.cluster
def test_a_status_is_read_as_it_was_written(server):
    made = server.created(document(MINIMAL, "told"), keep=True)
    assert made["status"] == {"state": "Pending"}
    found = server.patched("told", written(STATUS), "status", keep=True)["status"]
    assert CycleStatus.model_validate(found) == STATUS
    assert found == written(STATUS)["status"]


@pytest.mark.cluster
def test_conditions_are_keyed_by_type(server):
    server.created(document(MINIMAL, "keyed"), keep=True)
    for manager, kind in (("one", "Accepted"), ("two", "Promoted")):
        condition = Condition(type=kind, status="True", reason="Yes", last_transition_time=TIME)
        applied = document({}, "keyed") | {"status": {"conditions": [condition.model_dump(by_alias=True)]}}
        del applied["spec"]
        path = server.path("keyed", "status")
        query = {"fieldManager": manager, "fieldValidation": "Strict"}
        made = server.api.request("PATCH", path, applied, query=query, content_type="application/apply-patch+yaml")
    assert [one["type"] for one in made["status"]["conditions"]] == ["Accepted", "Promoted"]
    twice = {"status": {"conditions": made["status"]["conditions"] * 2}}
    with pytest.raises(ApiError, match="Duplicate value"):
        server.patched("keyed", twice, "status")


@pytest.mark.cluster
def test_a_status_is_no_part_of_what_people_write(server):
    made = server.created({**document(MINIMAL), **written(STATUS)})
    assert made["status"] == {"state": "Pending"}


# ---- kubectl


@pytest.mark.cluster
def test_columns(server, control_plane):
    namespace = control_plane.new_namespace()
    shown = Server(server.api, namespace)
    shown.created(document(MINIMAL, "told"), keep=True)
    shown.patched("told", written(STATUS), "status", keep=True)
    shown.created(document(MINIMAL | {"archive": "other"}, "new"), keep=True)

    def told(*arguments: str) -> list[list[str]]:
        return [line.split() for line in control_plane.kubectl("get", *arguments, "-n", namespace).stdout.splitlines()]

    header, new, running = told("rcy")
    assert header == ["NAME", "STATE", "STAGE", "PROGRESS%", "WINDOW", "DELTA", "PROMOTED", "AGE"]
    assert new[:2] == ["new", "Pending"]
    assert running[:-1] == ["told", "Running", "train", "43", "212", "0.031", "False"]
    assert told("rcy", "-o", "wide")[0] == ["NAME", *(column["name"].upper() for column in COLUMNS)]
    assert told("rcy", "-o", "wide")[2][8:] == ["workshop", "1"]
    assert [row[0] for row in told("refrain")] == ["NAME", "new", "told"]
    assert [row[0] for row in told("retraincycles", "--field-selector", "spec.archive=other")] == ["NAME", "new"]


@pytest.mark.cluster
def test_explain(server, control_plane):
    def explained(path: str) -> str:
        return control_plane.kubectl("explain", path, check=False).stdout

    text = wait_for(lambda: explained("retraincycle.spec.training"), what="its OpenAPI is published")
    assert "How it is trained." in text
    assert re.search(r"epochs\t<integer>\n +Passes over the new mail\.", text)
    assert "enum: bf16, fp16, fp32" in text
    assert "<Object>" not in explained("rcy.spec.selection").replace("FIELD: selection <Object>", "")
    assert "Mirrored" not in text


@pytest.mark.cluster
@pytest.mark.parametrize("name", ["cycle.yaml", "laptop-cycle.yaml"])
def test_the_examples_are_applied(server, control_plane, name):
    command = ("apply", "--dry-run=server", "-n", server.namespace, "-f", EXAMPLES / name)
    assert "created (server dry run)" in control_plane.kubectl(*command).stdout


@pytest.mark.cluster
def test_kubectl_waits_for_the_end(server, control_plane):
    def waited(name: str, observed: int) -> bool:
        server.created(document(MINIMAL, name), keep=True)
        told = {"reason": "Better", "last_transition_time": TIME, "observed_generation": observed}
        status = CycleStatus(state="Promoted", conditions=[Condition(type="Complete", status="True", **told)])
        server.patched(name, written(status), "status", keep=True)
        command = ("wait", "--for=condition=Complete", f"rcy/{name}", "--timeout=1s", "-n", server.namespace)
        return control_plane.kubectl(*command, check=False).returncode == 0

    assert waited("ended", 1)
    assert not waited("said-of-an-older-spec", 0)


@pytest.mark.cluster
def test_the_commands_of_the_page_work(server, control_plane):
    page = (EXAMPLES.parent / "docs" / "crd.md").read_text()
    begin, *_ = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    folder = programs.binary("kubectl").parent
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "KUBECONFIG": str(control_plane.kubeconfig)}
    run = subprocess.run(
        ["bash", "-euc", begin],
        cwd=EXAMPLES.parent,
        env={**environment, "KUBECACHEDIR": str(control_plane.folder)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("workshop-2025-w27") == 3
    server.api.delete(KIND, "workshop-2025-w27", "default")


# ---- the way to v1beta1, as docs/crd.md has it


def definition(stored: str, *, alpha: bool = True) -> Object:
    """The resource under another group's name, in two versions."""
    made = custom_resource_definition()
    made["metadata"]["name"] = "retraincycles.next.refrain.dev"
    made["spec"] |= {"group": "next.refrain.dev"}
    made["spec"]["names"] |= {"shortNames": [], "categories": []}
    (first,) = made["spec"]["versions"]
    versions = [first, {**first, "name": "v1beta1"}] if alpha else [{**first, "name": "v1beta1"}]
    made["spec"]["versions"] = [{**one, "storage": one["name"] == stored} for one in versions]
    return made


@pytest.mark.cluster
def test_storage_moves_to_the_next_version_without_a_webhook(server, control_plane):
    api, crd = server.api, ("apiextensions.k8s.io/v1/CustomResourceDefinition", "retraincycles.next.refrain.dev")
    alpha, beta = (f"next.refrain.dev/{version}/RetrainCycle" for version in ("v1alpha1", "v1beta1"))
    control_plane.apply(definition("v1alpha1"))
    made = api.create(document(STARTED, "old") | {"apiVersion": "next.refrain.dev/v1alpha1"}, server.namespace)
    assert api.get(beta, "old", server.namespace)["spec"] == made["spec"]

    control_plane.apply(definition("v1beta1"))
    assert api.get(*crd)["status"]["storedVersions"] == ["v1alpha1", "v1beta1"]
    with pytest.raises(ApiError, match="storedVersions"):
        control_plane.apply(definition("v1beta1", alpha=False))

    def rewritten() -> bool:
        # The API server takes a moment until it writes in the new version.
        found = api.get(beta, "old", server.namespace)
        api.request("PUT", api.path(beta, server.namespace, "old"), found)
        return (
            api.get(beta, "old", server.namespace)["metadata"]["resourceVersion"] != made["metadata"]["resourceVersion"]
        )

    wait_for(rewritten, what="the object is stored in the new version")
    api.patch(*crd, None, {"status": {"storedVersions": ["v1beta1"]}}, subresource="status")
    control_plane.apply(definition("v1beta1", alpha=False))
    assert api.get(beta, "old", server.namespace)["spec"] == made["spec"]
    assert alpha.split("/")[1] not in {one["name"] for one in api.get(*crd)["spec"]["versions"]}
