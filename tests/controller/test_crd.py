"""The CustomResourceDefinition: what it says, and that the API server judges and reads as the models do."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
import yaml
from cluster.api import ApiError, Object
from cluster.cycle_server import Server, document, models_refusal
from cyclespecs import MINIMAL, NAMES, many_fields, one_field_each, train
from pydantic import BaseModel, Field

from controller.crd import CRD_FILE, crd_yaml, custom_resource_definition
from controller.structural import structural_schema
from jobs.contracts.cycle import CycleSpec, load_cycle

if TYPE_CHECKING:
    from cluster.control_plane import ControlPlane

ROOT = Path(__file__).parents[2]
SCHEMA = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
SPEC = SCHEMA["properties"]["spec"]
RULES = "x-kubernetes-validations"


# ---- what it says


def nodes(schema: Object, path: str) -> Iterator[tuple[str, Object]]:
    """Every node of a schema by its path: `[]` is an item of a list, `{}` a value of a map."""
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from nodes(field, f"{path}.{name}")
    for keyword, sign in (("items", "[]"), ("additionalProperties", "{}")):
        if keyword in schema:
            yield from nodes(schema[keyword], path + sign)


def test_the_file_in_the_repository_is_the_generated_one():
    text = (ROOT / CRD_FILE).read_text()
    assert text == crd_yaml(), "run `make generate`"
    assert text.startswith("# Generated from ")
    assert yaml.safe_load(text) == custom_resource_definition()


def test_every_field_is_described_in_camel_case():
    named = [(path, node) for path, node in nodes(SCHEMA, "") if path.startswith((".spec", ".status"))]
    assert [path for path, node in named if "description" not in node and path[-1] not in "]}"] == []
    assert [path for path, _ in named if not re.fullmatch(r"(\.[a-z]+[0-9]*([A-Z][a-z]*)*(\[\]|\{\})?)+", path)] == []


def test_everything_in_a_spec_has_a_bound():
    bounds = {
        "string": {"maxLength", "enum"},
        "array": {"maxItems"},
        "integer": {"maximum"},
        "number": {"maximum"},
        "object": {"properties", "maxProperties", "x-kubernetes-preserve-unknown-fields"},
        "boolean": {"type"},
        None: {"maxLength"},
    }
    assert [path for path, node in nodes(SPEC, "spec") if not bounds[node.get("type")] & node.keys()] == []


def test_only_json_schema_that_a_structural_schema_knows_is_left():
    left = set().union(*(node for _, node in nodes(SCHEMA, "")))
    assert left & {"$ref", "$defs", "title", "const", "propertyNames", "discriminator", "oneOf"} == set()
    assert [path for path, node in nodes(SCHEMA, "") if node.get("default", 0) is None] == []
    assert [path for path, node in nodes(SCHEMA, "") if isinstance(node.get("additionalProperties"), bool)] == []
    assert [path for path, node in nodes(SCHEMA["properties"]["status"], "") if "default" in node] == [""]


@pytest.mark.parametrize("annotation", [int | float, Literal["a"] | int, dict[str, int] | list[int]])
def test_what_a_structural_schema_cannot_say_is_an_error(annotation):
    model = type("Odd", (BaseModel,), {"__annotations__": {"field": annotation}})
    with pytest.raises(ValueError, match="a structural schema can say no more than"):
        structural_schema(model)


def test_a_check_that_a_structural_schema_has_no_word_for_is_an_error():
    class Odd(BaseModel):
        field: int = Field(json_schema_extra={"if": {}})

    with pytest.raises(ValueError, match="if: a structural schema has no such keyword"):
        structural_schema(Odd)


@pytest.mark.parametrize("name", ["cycle.yaml", "laptop-cycle.yaml"])
def test_the_examples_are_cycles(name):
    assert load_cycle(ROOT / "examples" / name).spec.archive == "workshop"


# ---- rules: for each a spec that keeps it and one that breaks it


@dataclass(frozen=True)
class Case:
    """A rule, by where it stands and a part of its message, and what keeps and breaks it."""

    path: str
    message: str
    right: Object
    wrong: Object


def store(**more: str) -> Object:
    return {"store": {"url": "s3://refrain", **more}}


KMS = {"sse": "aws:kms", "sseKmsKeyId": "k"}
ONE_SOURCE = "needs exactly one of mbox, maildir, eml, imap"
ONE_PATTERN = "needs exactly one of from, to, list, header, label, folder, subject"
NO_TEST = "a test metric chooses nothing: val chooses, test reports"
LONG = {"x" * 318: "1"}
SHARDED = {"shardModel": True}
CASES = [
    Case("spec.store", "sseKmsKeyId needs sse: aws:kms", store(**KMS), store(**KMS | {"sse": "AES256"})),
    Case("spec.sources[]", ONE_SOURCE, {"sources": [{"eml": "a"}]}, {"sources": [{"eml": "a"}, {}]}),
    Case(
        "spec.sources[]",
        "a password has no place here",
        {"sources": [{"imap": "imaps://ann@mail.example/INBOX"}]},
        {"sources": [{"imap": "imaps://ann:pw@mail.example/INBOX"}]},
    ),
    *(
        Case(
            f"spec.filters.{which}[]",
            ONE_PATTERN,
            {"filters": {which: [{"from": "a"}]}},
            {"filters": {which: [{"from": "a", "list": "b"}]}},
        )
        for which in ("include", "exclude")
    ),
    Case(
        "spec.split",
        "windowOverlap must be less than windowSize",
        {"split": {"windowSize": 11}},
        {"split": {"windowSize": 10}},
    ),
    *(
        Case("spec.training", message, {"training": SHARDED | right}, {"training": SHARDED | wrong})
        for message, right, wrong in (
            ("shardModel needs several processes", {"processesPerNode": 2}, {"nodes": 1}),
            ("shardModel and quantization exclude", {"nodes": 2}, {"nodes": 2, "quantization": "4bit"}),
        )
    ),
    *(
        Case("spec.selection.weights", message, {"selection": {"weights": right}}, {"selection": {"weights": wrong}})
        for message, right, wrong in (
            ("the weights are ppl, rag, recall", {"recall": 1}, {"ppl": 1, "loss": 1}),
            ("at least one weight must be above 0", {"ppl": 0, "rag": 0.1}, {"ppl": 0}),
            (NO_TEST, {"rag": 1}, {"ppl": 1, "test_ppl": 1}),
            ("a name has 1 to 63 characters", {"rag": 1}, {"rag": 1, "x" * 64: 1}),
        )
    ),
    *(
        Case(
            "spec.selection.thresholds[]",
            message,
            {"selection": {"thresholds": [right]}},
            {"selection": {"thresholds": [wrong]}},
        )
        for message, right, wrong in (
            ("write a threshold as val_perplexity <= 15", "val_loss<1e-1", "val_loss is 1"),
            ("the metrics are val_perplexity, val_loss", "rag_accuracy_at_10 > .5", "rag_accuracy > .5"),
            (NO_TEST, "val_perplexity <= 15", "test_perplexity <= 15"),
        )
    ),
    Case(
        "spec.promotion.gate.confidence",
        "must be >= 0.5",
        {"promotion": {"gate": {"confidence": 0.5}}},
        {"promotion": {"gate": {"confidence": 0}}},
    ),
    Case("spec.stages", "there are parse, split, ", train(), {"stages": {"tune": {}}}),
    *(
        Case(
            f"spec.stages{{}}.{name}",
            "a name has 1 to 317 characters",
            train(**{name: {"a": "1"}}),
            train(**{name: LONG}),
        )
        for name in ("nodeSelector", "labels", "annotations")
    ),
    *(
        Case(
            f"spec.stages{{}}.resources.{name}",
            "a name has 1 to 317 characters",
            train(resources={name: {"cpu": 1}}),
            train(resources={name: LONG}),
        )
        for name in ("limits", "requests")
    ),
]


def test_every_rule_has_its_case():
    there = [(path, one["message"]) for path, node in nodes(SPEC, "spec") for one in node.get(RULES, [])]
    covered = [[key for key in there if key[0] == case.path and key[1].startswith(case.message)] for case in CASES]
    assert all(len(found) == 1 for found in covered)
    assert Counter(key for (key,) in covered) == Counter(there)
    assert [path for path, node in nodes(SCHEMA["properties"]["status"], "status") if RULES in node] == []


# ---- the API server


@pytest.fixture(scope="module")
def server(control_plane: ControlPlane) -> Server:
    control_plane.apply(custom_resource_definition())
    return Server(control_plane.api, control_plane.new_namespace())


@pytest.mark.cluster
def test_the_api_server_accepts_it(server):
    found = server.api.get("apiextensions.k8s.io/v1/CustomResourceDefinition", "retraincycles.refrain.dev")
    conditions = {one["type"]: one["status"] for one in found["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}  # and not NonStructuralSchema
    assert found["spec"]["versions"][0]["schema"]["openAPIV3Schema"] == SCHEMA


@pytest.mark.cluster
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.path}: {case.message[:30]}")
def test_a_rule_is_kept_or_broken(server, case):
    right, wrong = document(MINIMAL | case.right), document(MINIMAL | case.wrong)
    assert (models_refusal(right), server.refusal(right)) == ("", "")
    assert models_refusal(wrong)
    assert case.message in server.refusal(wrong)


@pytest.mark.cluster
def test_a_test_metric_is_refused_by_both_in_a_like_manner(server):
    for selection in ({"weights": {"test_loss": 1}}, {"thresholds": ["rag_test_accuracy > 0"]}):
        cycle = document(MINIMAL | {"selection": selection})
        for refusal in (models_refusal(cycle), server.refusal(cycle)):
            assert "val chooses, test reports" in refusal


def judged_alike(server: Server, cycles: list[Object]) -> float:
    """The share of cycles that were taken, after both have judged and read them alike."""
    taken = 0
    for cycle in cycles:
        ours = models_refusal(cycle)
        try:
            theirs, made = "", server.created(cycle)
        except ApiError as error:
            theirs = str(error)
        assert bool(ours) == bool(theirs), f"{cycle}\nmodels: {ours}\nAPI server: {theirs}"
        if not ours:
            taken += 1
            assert CycleSpec.model_validate(made["spec"]) == CycleSpec.model_validate(cycle["spec"])
    return taken / len(cycles)


@pytest.mark.cluster
def test_both_judges_agree_about_a_sample(server):
    alone = [document(spec) for spec in random.Random(5).sample(list(one_field_each(SPEC)), 300)]
    together = [document(spec) for spec in many_fields(SPEC, 200, 5, lambda spec: not models_refusal(document(spec)))]
    assert 0.1 < judged_alike(server, alone) < 0.4
    assert 0.3 < judged_alike(server, together) < 0.9
    judged_alike(server, [document(MINIMAL, name) for name in NAMES])


@pytest.mark.cluster
@pytest.mark.slow
def test_both_judges_agree_about_every_value_of_every_field(server):
    cycles = [document(spec) for spec in one_field_each(SPEC)]
    assert len(cycles) > 3000
    judged_alike(server, cycles)
