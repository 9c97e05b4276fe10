"""What the chart does not take, and what it says."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from helm import CHART, NEEDED, helm, rendered, sets, template, the, words

from controller.cli.creating import sent
from controller.cli.scheduling import filled, words_of

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
# One for each kind of bound; values of the cycle and of stages have the models' own.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"inference.mode": "Blue"}, "at '/inference/mode': value must be one of 'Rollout', 'Swap'"),
    ({"inference.replica": 2}, "at '/inference': additional properties 'replica' not allowed"),
    ({"inference.replicas": -1}, "at '/inference/replicas': minimum: got -1, want 0"),
    ({"inference.service.sessionAffinity": "Cookie"}, "value must be one of 'ClientIP', 'None'"),
    ({"inference.gpus": "one"}, "at '/inference/gpus': got string, want integer"),
    ({"image.registry": "http://registry.example"}, "at '/image/registry': 'http://registry.example' does not match"),
    ({"image.jobs.digest": "sha256:abc"}, "at '/image/jobs/digest': 'sha256:abc' does not match pattern"),
    ({"image.pullPolicy": "Sometimes"}, "value must be one of 'Always', 'IfNotPresent', 'Never'"),
    ({"imagePullSecrets": ["registry"]}, "at '/imagePullSecrets/0': got string, want object"),
    ({"store.url": "http://minio:9000/refrain"}, "at '/store/url': 'http://minio:9000/refrain' does not match"),
    ({"store.endpoint": "minio:9000"}, "at '/store/endpoint': 'minio:9000' does not match pattern"),
    ({"store.endpoint": "http://key:secret@minio:9000"}, "at '/store/endpoint': "),
    ({"archive": "Mail"}, "at '/archive': 'Mail' does not match pattern"),
    ({"model.base": ""}, "at '/model/base': minLength: got 0, want 1"),
    ({"schedule.cron": "weekly"}, "at '/schedule/cron': 'weekly' does not match pattern"),
    ({"schedule.timeZone": "UTC+1"}, "at '/schedule/timeZone': 'UTC+1' does not match pattern"),
    ({"schedule.spec": {"trainin": {}}}, "at '/schedule/spec': additional properties 'trainin' not allowed"),
    ({"schedule.spec": {"training": {"epochs": 0}}}, "at '/schedule/spec/training/epochs': minimum: got 0, want 1"),
    ({"schedule.spec": {"archive": "other"}}, "at '/schedule/spec': additional properties 'archive' not allowed"),
    ({"schedule.sources": [{"mbx": "a"}]}, "at '/schedule/sources/0': additional properties 'mbx' not allowed"),
    ({"schedule.sources": [{"mbox": "a", "eml": "b"}]}, "at '/schedule/sources/0': maxProperties: got 2, want 1"),
    ({"stages.overrides": {"trian": {}}}, "invalid propertyName 'trian'"),
    ({"stages.overrides": {"train": {"image": "other"}}}, "additional properties 'image' not allowed"),
    ({"stages.graceSeconds": 0}, "at '/stages/graceSeconds': minimum: got 0, want 1"),
    ({"stages.env": {"A": 1}}, "at '/stages/env/A': got number, want string"),
    ({"controller.owner": "x" * 129}, "at '/controller/owner': maxLength: got 129, want 128"),
    ({"controller.resources": {"request": {}}}, "at '/controller/resources': additional properties 'request' not"),
    ({"objectStore.persistence.size": "much"}, "at '/objectStore/persistence/size': 'much' does not match pattern"),
    ({"networkPolicy.dnsPorts": [0]}, "at '/networkPolicy/dnsPorts/0': minimum: got 0, want 1"),
    ({"monitoring.prometheusRule.noPromotionWeeks": 0}, "minimum: got 0, want 1"),
    ({"metrics": {}}, "at '': additional properties 'metrics' not allowed"),
]
UNMET: list[tuple[dict[str, Any], str]] = [
    ({"image.registry": ""}, "image.registry is required: where the images of `make images` were pushed"),
    ({"store.url": ""}, "store.url is required: s3://bucket, where the archive is kept (or objectStore.enabled=true"),
    (
        {"inference.engine": "vllm", "inference.mode": "Swap"},
        "inference.engine vllm needs inference.mode Rollout: vLLM takes no other adapter while it runs",
    ),
    (
        {"inference.podAnnotations": {"refrain.dev/adapter": "a@b"}},
        "podAnnotations: refrain.dev/adapter is the controller's",
    ),
    (
        {"schedule.sources": [{"mbox": "s3://mail/{weak}.mbox.gz"}]},
        "schedule: no such word in the cycle's name, sources or spec: {weak};",
    ),
    ({"schedule.name": "list-{week}-{day}"}, "sources or spec: {day}; there are {date}, {time},"),
    ({"schedule.spec": {"evaluation": {"embeddingModel": "s3://refrain/{Week}"}}}, "sources or spec: {Week}; there"),
    (
        {"archive": "a" * 48},
        f"schedule.name: not a name for cycles: {'a' * 48}-2026-11-23-0300, of 64 characters; give",
    ),
    ({"schedule.name": "a" * 16 + "{date}" * 5}, "2026-11-23, of 66 characters; give one of lower-case"),
    ({"schedule.name": "my_list"}, "schedule.name: not a name for cycles: my_list-2026-11-23-0300, of 23 characters;"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=[next(iter(values)) for values, _ in REFUSED])
def test_the_schema_refuses(values: dict[str, Any], message: str) -> None:
    done = template(*sets(NEEDED | values), check=False)
    assert done.returncode != 0
    assert message in words(done.stderr)


@pytest.mark.parametrize(("values", "message"), UNMET, ids=[next(iter(values)) for values, _ in UNMET])
def test_the_templates_refuse(values: dict[str, Any], message: str) -> None:
    done = template(*sets(NEEDED | values), check=False)
    assert done.returncode != 0
    assert message in words(done.stderr)


def test_the_words_of_a_schedule_are_those_that_are_filled_in() -> None:
    known = list(words_of(NOON))
    done = template(*sets(NEEDED | {"schedule.name": "mail-{no}"}), check=False)
    assert re.findall(r"\{(\w+)\}", done.stderr) == ["no", *known]
    sources = [{"mbox": f"s3://mail/{{{word}}}.mbox"} for word in known]
    assert template(*sets(NEEDED | {"schedule.sources": sources})).returncode == 0


@pytest.mark.parametrize(
    "values",
    [
        {"archive": "a" * 47},
        {"archive": "a" * 63, "schedule.name": "b" * 47},
        {"archive": "a" * 63, "schedule.name": "b.{date}{date}{time}-{week}-{last_week}" + "-bbbbbbb"},
        {"archive": "a" * 63, "schedule.name": "bbb{date}{date}{date}{date}{date}{date}"},
    ],
)
def test_a_name_that_the_chart_takes_is_one_for_a_cycle(values: dict[str, Any], tmp_path: Path) -> None:
    """Filled in as the schedule does."""
    made = the(rendered(*sets(NEEDED | values)), "ConfigMap", "refrain-schedule")
    (tmp_path / "template.yaml").write_text(made["data"]["template.yaml"])
    cycle = sent(tmp_path / "template.yaml", fill=lambda value: filled(value, words_of(NOON), where=""))
    assert 47 < len(cycle["metadata"]["name"]) <= 63


def test_without_a_schedule_an_archive_may_have_its_63_characters() -> None:
    assert template(*sets(NEEDED | {"archive": "a" * 63, "schedule.enabled": False})).returncode == 0


def test_a_parent_charts_globals_are_let_be() -> None:
    assert template(*sets(NEEDED | {"global": {"other": 1}})).returncode == 0


def test_a_cluster_that_is_too_old_is_refused() -> None:
    done = helm("template", "refrain", CHART, "--kube-version=1.30", *sets(NEEDED), check=False)
    assert "chart requires kubeVersion: >=1.31.0-0" in words(done.stderr)
