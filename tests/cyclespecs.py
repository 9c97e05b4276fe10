"""Specs of cycles for both judges, pydantic and the API server: good ones, and ones with something wrong."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

Json = dict[str, Any]

MINIMAL: Json = {"archive": "workshop", "store": {"url": "s3://refrain"}, "model": {"base": "org/model"}}

ANYWHERE: list[Any] = [
    *(None, True, False, 0, 1, -1, 3.0, 3.5, 1e30, 2**53, 2**53 + 2, "", "x", "3", "true", "null", "\u0663"),
    *([], [None], [1], ["x"], [{}], {}, {"x": None}, {"x": 1}, {"x": "x"}, {"x": {}}),
]
"""Values that some field or other takes for what they are not."""

PLAUSIBLE: dict[str, list[Any]] = {
    "archive": ["a", "a.b-c", "a..b", "-a", "A", "a\n", "a" * 63, "a" * 64],
    "store.url": ["s3://b/p", "s3://", "s3:///p", "file:///x", "file://x", "http://x", "folder/x", "x\n", "s3://b/\n"],
    "store.endpoint": ["http://minio:9000", "https://x/", "http://a@b", "http://x/y", "http://a b", "http://a\u00a0b"],
    "store.sse": ["AES256"],
    "store.sseKmsKeyId": ["key"],
    "sources": [
        [{"mbox": "a"}],
        [{"mbox": "a", "eml": "b"}],
        [{"mbox": None, "eml": "b"}],
        [{"mbox": "a"}, {}],
        [{"imap": "imaps://ann@x/INBOX"}, {"imap": "imap://ann:pw@x"}],
        [{"imap": "imaps://ann@x/a:b@c"}],
        [{"imap": "imaps://x:993/INBOX"}, {"maildir": "m"}],
        [{"imap": "x"}],
        [{"imap": "imaps://x y"}],
        [{"imap": "imaps://x\u2003y"}],
        [{"mbox": "a"}] * 64,
        [{"mbox": "a"}] * 65,
    ],
    "persona": [["a@b"], ["a@b@c"], ["a b@c"], ["a\u00a0@b"], ["a\x0b@b"], ["a@b\n"], ["a@b"] * 100, ["a@b"] * 101],
    "filters.exclude": [[{"from": "a"}], [{"from_": "a"}], [{"from": "a", "to": "b"}], [{"list": "x" * 321}]],
    "split": [{"windowSize": 10}, {"windowSize": 10, "windowOverlap": 9}, {"windowOverlap": 100}, {"window_size": 20}],
    "training": [
        {"shardModel": True},
        {"shardModel": True, "nodes": 2},
        {"shardModel": True, "processesPerNode": 8},
        {"shardModel": True, "processesPerNode": 8, "quantization": "4bit"},
        {"processesPerNode": 8, "quantization": "4bit"},
    ],
    "rehearsal.ratio": ["1:4", "0:1", "1:0", "0.2", ".5", "1", "1:4\n", "\u0661:\u0664", 0.2, 0],
    "selection.weights": [
        {"ppl": 1},
        {"ppl": 0},
        {"ppl": 0.0, "recall": 1e-9},
        {"ppl": -1, "rag": 1},
        {"ppl": 1, "test_ppl": 1},
        {"test": 1},
        {"ppl": "1"},
        {"ppl": None, "rag": 1},
        {"contest": 1},
        {"ppl": 1, "rag": 1, "recall": 1000},
        {"ppl": 1001},
    ],
    "selection.thresholds": [
        [f"{metric}{rest}"]
        for metric in (
            "val_perplexity",
            "val_loss",
            "rag_accuracy_at_5",
            "rag_accuracy_at_12345",
            "test_loss",
            "latest",
        )
        for rest in (" <= 15", "<.5", " >= -1e-3", " == 1", " <= ", " <= \u0661", " < 1\n", " > 1. ")
    ]
    + [["val_test_loss <= 1"], ["test <= 1"], ["test1 <= 1"], ["1test <= 1"], ["fluency > 0.1"] * 17],
    "promotion.approve": ["a" * 64, "A" * 64, "a" * 63, "a" * 64 + "\n"],
    "stages": [
        {"train": {}},
        {"train": {"image": "x"}},
        {"tune": {}},
        {"train": None},
        {"train": {"resources": {"limits": {"cpu": "500m", "nvidia.com/gpu": 1, "memory": "8Gi"}}}},
        *({"train": {"resources": {"limits": {"cpu": cpu}}}} for cpu in ("1e3", "1 G", "-1", -1, 1.0, 0.5, True, None)),
        {"train": {"resources": {"requests": {"": 1}}}},
        {"train": {"resources": {"requests": {"x" * 318: 1}}}},
        {"train": {"resources": {"requests": {f"r{n}": n for n in range(17)}}}},
        {"train": {"nodeSelector": {"a": ""}}},
        {"train": {"nodeSelector": {"a": 1}}},
        {"train": {"labels": {"a": "x" * 64}}},
        {"train": {"annotations": {"a": "x" * 4096}}},
        {"train": {"annotations": {"": "x"}}},
        {"train": {"tolerations": [{"operator": "Exists"}]}},
        {"train": {"tolerations": [{"operator": "Any"}]}},
        {"train": {"affinity": {"nodeAffinity": {"anything": [{"goes": None}]}}}},
        {"train": {"affinity": {"bodyAffinity": {}}}},
        {"train": {"affinity": {"nodeAffinity": []}}},
    ],
}
"""Values that are right or nearly right for a field."""

NAMES = ["w1", "2026-11-23", "a.b", "a..b", "a.-b", "a-.b", "A", "a" * 63, "a" * 64, "", "a_b", "-a", "a\n"]


def train(**override: Any) -> Json:
    """The part of a spec that says what is different in train's pods."""
    return {"stages": {"train": override}}


def fields(schema: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Every field of a spec by its dotted path, outer ones first; not those inside lists and maps."""
    for name, field in schema["properties"].items():
        yield f"{path}{name}", field
        if "properties" in field:
            yield from fields(field, f"{path}{name}.")


def at_the_bounds(schema: Json) -> list[Any]:
    """Values just inside and outside of what a schema allows."""
    found: list[Any] = list(schema.get("enum", []))
    step = 1 if schema.get("type") == "integer" else 1e-9
    for bound in ("minimum", "maximum"):
        if bound in schema:
            found += [schema[bound] - step, schema[bound], schema[bound] + step]
    if "maxLength" in schema:
        found += [letter * (schema["maxLength"] + extra) for letter in "aä\U0001f600" for extra in (0, 1)]
    if "maxItems" in schema and "enum" in schema["items"]:
        found += [schema["items"]["enum"], schema["items"]["enum"] * 2, ["nope"]]
    return found


def with_value(path: str, value: Any, spec: Json | None = None) -> Json:
    """A spec in which that field has that value."""
    spec = copy.deepcopy(spec or MINIMAL)
    place = spec
    *steps, last = path.split(".")
    for step in steps:
        if not isinstance(place.get(step), dict):
            place[step] = {}
        place = place[step]
    place[last] = value
    return spec


def one_field_each(schema: Json) -> Iterator[Json]:
    """Specs that differ from the minimal one in a single field; every field has many values."""
    for path, field in fields(schema):
        for value in [*ANYWHERE, *at_the_bounds(field), *PLAUSIBLE.get(path, [])]:
            yield with_value(path, value)
        yield with_value(f"{path}x", 1)
    for name in MINIMAL:
        yield {other: value for other, value in MINIMAL.items() if other != name}


def many_fields(schema: Json, number: int, seed: int, is_right: Callable[[Json], bool]) -> Iterator[Json]:
    """Specs with several fields at once, nearly all of them right by themselves."""
    draw = random.Random(seed)
    choices = {path: at_the_bounds(field) + PLAUSIBLE.get(path, []) for path, field in fields(schema)}
    right = {path: [one for one in values if is_right(with_value(path, one))] for path, values in choices.items()}
    known = [path for path, values in right.items() if values]
    for _ in range(number):
        spec = copy.deepcopy(MINIMAL)
        for path in draw.sample(known, draw.randint(2, 8)):
            spec = with_value(path, draw.choice(choices[path] if draw.random() < 0.1 else right[path]), spec)
        yield spec
