"""What `refrain cycle` sends and how it is refused, whose logs it takes, and what is taken out of a bug report."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from controller_world import START
from cyclespecs import MINIMAL, one_field_each

from controller.api import ApiError
from controller.cli.cluster import refusal
from controller.cli.creating import read_document
from controller.cli.logs import in_order
from controller.cli.redaction import REMOVED, document, masked
from controller.objects import written
from controller.structural import structural_schema
from jobs.contracts.cycle import load_cycle
from jobs.contracts.cycle.spec import CycleSpec, RetrainCycle
from jobs.contracts.errors import AccessError, ConfigError, MissingInputError, TransientError


def as_sent(tmp_path: Path, value: Any) -> Any:
    file = tmp_path / "cycle.yaml"
    file.write_text(yaml.safe_dump(value))
    return read_document(file, name=None, suspend=False)


def test_what_is_sent_is_what_the_file_says(tmp_path):
    """Of every spec that is right: the same fields, the same values, nothing added."""
    num_right = 0
    for spec in one_field_each(structural_schema(CycleSpec)):
        value = {"apiVersion": "refrain.dev/v1alpha1", "kind": "RetrainCycle", "metadata": {"name": "w1"}, "spec": spec}
        try:
            sent = as_sent(tmp_path, value)
        except ConfigError:
            continue
        num_right += 1
        want = load_cycle(tmp_path / "cycle.yaml")
        assert RetrainCycle.model_validate(sent, by_alias=True, by_name=False) == want
        assert b".0" not in re.sub(rb'"[^"]*"', b"", orjson.dumps(sent)), "a whole number has no point"
        assert sent["spec"].keys() == {key for key, one in spec.items() if one is not None}
    assert num_right > 100


def test_a_status_and_what_a_server_adds_is_not_sent(tmp_path):
    metadata = {"name": "w1", "uid": "x", "resourceVersion": "7", "labels": {"a": "b"}}
    value = {"apiVersion": "refrain.dev/v1alpha1", "kind": "RetrainCycle", "metadata": metadata, "spec": MINIMAL}
    sent = as_sent(tmp_path, value | {"status": {"state": "Promoted"}})
    assert sent == value | {"metadata": {"name": "w1", "labels": {"a": "b"}}}


FORBIDDEN = (
    'retraincycles.refrain.dev is forbidden: User "ann" cannot create resource "retraincycles" in API group '
    '"refrain.dev" in the namespace "mail"'
)


@pytest.mark.parametrize(
    ("status", "reason", "message", "kind", "words"),
    [
        (401, "Unauthorized", "Unauthorized", AccessError, "log in"),
        (
            403,
            "Forbidden",
            FORBIDDEN,
            AccessError,
            "ann may not create retraincycles.refrain.dev\n  ask for a Role with apiGroups: ",
        ),
        (403, "Forbidden", "exceeded quota: small", AccessError, "exceeded quota: small"),
        (
            404,
            "NotFound",
            "the server could not find the requested resource",
            MissingInputError,
            "kubectl apply -f crds/",
        ),
        (404, "NotFound", 'namespaces "mail" not found', MissingInputError, 'namespaces "mail" not found'),
        (422, "Invalid", "spec.split: windowOverlap must be smaller", ConfigError, "windowOverlap must be smaller"),
        (400, "BadRequest", 'strict decoding error: unknown field "spec.x"', ConfigError, 'unknown field "spec.x"'),
        (409, "Conflict", "the object has been modified", ConfigError, "modified"),
        (429, "TooManyRequests", "later", TransientError, "429 TooManyRequests: later"),
        (503, "ServiceUnavailable", "away", TransientError, "503"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words(status, reason, message, kind, words):
    error = refusal(ApiError(status, reason, message), "mail")
    assert type(error) is kind
    assert words in str(error)


def test_the_newest_pod_of_the_first_rank():
    def pod(name: str, **labels: str) -> dict[str, Any]:
        named = {f"refrain.dev/{key}": text for key, text in labels.items() if key != "rank"}
        named |= {"batch.kubernetes.io/job-completion-index": labels["rank"]} if "rank" in labels else {}
        return {"metadata": {"name": name, "labels": named, "creationTimestamp": written(START)}}

    pods = [
        pod("b", attempt="0", run="10", rank="0"),
        pod("c", attempt="0", run="10", rank="1"),
        pod("a", attempt="0", run="9"),
        pod("d", attempt="1", run="0"),
    ]
    assert [one["metadata"]["name"] for one in in_order(pods)] == ["a", "b", "d"]


def test_secrets_are_taken_out_of_objects():
    env = [{"name": "HF_TOKEN", "value": "hunter2"}, {"name": "HOME", "value": "/tmp"}]
    last_applied = {"kubectl.kubernetes.io/last-applied-configuration": "hunter3"}
    thing = {"metadata": {"managedFields": [1], "annotations": last_applied}, "spec": [{"env": env}]}
    assert orjson.loads(document(thing)) == {
        "metadata": {"annotations": {}},
        "spec": [{"env": [{"name": "HF_TOKEN", "value": REMOVED}, env[1]]}],
    }


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("proxy http://ann:hunter2@proxy:3128/x", f"proxy http://{REMOVED}@proxy:3128/x"),
        ("GET /x?X-Amz-Signature=abc123&a=b", f"GET /x?X-Amz-Signature={REMOVED}&a=b"),
        ("Authorization: Bearer abc.def-123456", f"Authorization: Bearer {REMOVED}"),
        ("key AKIA" + "ABCDEFGHIJKLMNOP used", f"key {REMOVED} used"),
        ("from ann@example.org: loss 2.1", "from ann@example.org: loss 2.1"),
        ("s3://bucket/a, see ann@example.org", "s3://bucket/a, see ann@example.org"),
    ],
)
def test_credentials_are_taken_out_of_logs(text: str, left: str):
    assert masked(text.encode()).decode() == left
