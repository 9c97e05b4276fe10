"""The chart, rendered: goldens beside their values, and what the pieces have to be for those who read them.

REFRAIN_WRITE_GOLDENS=1 pytest tests/charts/test_rendering.py     writes the goldens anew
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from helm import CASES, CHART, CRDS, NAMES, NEEDED, case, helm, of_kind, pod_specs, rendered, sets, the

from controller.cli.scheduling import filled, scheduled_at, words_of, zone_of
from controller.crd import custom_resource_definition
from controller.serving import INFERENCE_RIGHTS, RIGHTS, TRAIN_JOB_RIGHTS
from controller.settings import Settings, load_settings
from jobs.contracts.cycle import RetrainCycle, load_cycle

if TYPE_CHECKING:
    from cluster.api import Object


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as such."""

    def ignore_aliases(self, _: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _golden(objects: list[Object]) -> str:
    """Objects as they are compared: without the resource definition, and with what is made at random taken out."""
    kept = [one for one in objects if one["kind"] != "CustomResourceDefinition"]
    for secret in of_kind(kept, "Secret"):
        secret["data"] = dict.fromkeys(secret["data"], "made once")
    return yaml.dump_all(kept, Dumper=_Dumper, sort_keys=False, width=120)


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str) -> None:
    found = _golden(case(name))
    path = CASES / f"{name}.golden.yaml"
    if os.environ.get("REFRAIN_WRITE_GOLDENS"):
        path.write_text(found)
    assert found == path.read_text()


def test_there_are_goldens() -> None:
    assert len(NAMES) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_lint(name: str) -> None:
    said = helm("lint", "--strict", CHART, f"--values={CASES / name}.values.yaml").stdout
    assert "1 chart(s) linted, 0 chart(s) failed" in said


def test_lint_of_the_definitions() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", CRDS).stdout


# ---- the controller


def _settings(objects: list[Object], folder: Path) -> Settings:
    files = [one.get("data", {}) for one in of_kind(objects, "ConfigMap")]
    (config,) = [one["config.yaml"] for one in files if "config.yaml" in one]
    (folder / "config.yaml").write_text(config)
    return load_settings(folder / "config.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_the_controller_reads_its_settings(name: str, tmp_path: Path) -> None:
    objects = case(name)
    settings = _settings(objects, tmp_path)
    assert settings.namespace == "mail"
    deployments = [one["metadata"]["name"] for one in of_kind(objects, "Deployment")]
    assert (settings.inference.deployment if settings.inference else None) in [*deployments, None]
    secrets = {one["metadata"]["name"] for one in of_kind(objects, "Secret")}
    assert set(settings.store.secrets) <= secrets | {"refrain-s3", "refrain-s3-archive"}


def test_every_setting_can_be_reached(tmp_path: Path) -> None:
    """Values that differ from each of the defaults end up in the settings."""
    values: dict[str, Any] = {
        "image.tag": "9.9.9",
        "image.pullPolicy": "Always",
        "imagePullSecrets": [{"name": "pull"}],
        "store.allowedSecrets": ["other"],
        "ca.configMap": "ca",
        "inference.mode": "Swap",
        "inference.question": "Well?",
        "mail.imapHosts": ["mail.example"],
        "stages.env": {"A": "1"},
        "stages.envFromSecrets": ["hub"],
        "modelCache.enabled": True,
        "stages.scratchSize": "1Gi",
        "stages.sharedMemorySize": "1Gi",
        "gpu.resource": "amd.com/gpu",
        "stages.graceSeconds": 7,
        "stages.lightResources": {"requests": {"cpu": "1"}},
        "stages.heavyResources": {"requests": {"cpu": "3"}},
        "stages.overrides": {"train": {"priorityClassName": "batch"}},
        "stages.queueName": "queue",
        "controller.owner": "me",
        "controller.paused": True,
        "stages.trainJob.runtime": "torch-distributed",
        "controller.resyncSeconds": 11,
        "controller.progressSeconds": 12,
    }
    said = _settings(rendered(*sets(NEEDED | values)), tmp_path)
    same = {
        name
        for name, field in Settings.model_fields.items()
        if not field.is_required() and getattr(said, name) == field.get_default(call_default_factory=True)
    }
    assert not same
    assert said.inference is not None
    assert str(said.inference.token_file) == "/etc/refrain-swap/token"
    assert said.images.pull_secrets == ["pull"]
    assert said.store.secrets == ["refrain-s3", "other"]


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("runtime", ["", "torch-distributed"])
def test_the_role_has_the_rights_that_the_controller_asks_for(inference: bool, runtime: str) -> None:
    values = NEEDED | {"inference.enabled": inference, "stages.trainJob.runtime": runtime}
    role = the(rendered(*sets(values)), "Role", "refrain-controller")
    given = {(rule["apiGroups"][0], rule["resources"][0], tuple(rule["verbs"])) for rule in role["rules"]}
    wanted = RIGHTS + (INFERENCE_RIGHTS if inference else ()) + (TRAIN_JOB_RIGHTS if runtime else ())
    assert given == set(wanted)


@pytest.mark.parametrize("name", NAMES)
def test_no_rule_has_a_wildcard(name: str) -> None:
    for role in of_kind(case(name), "Role", "ClusterRole"):
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]


# ---- the schedule


@pytest.mark.parametrize("name", ["minimal", "try-out", "cloud"])
def test_the_scheduled_cycle_is_one(name: str, tmp_path: Path) -> None:
    objects = case(name)
    (cron,) = of_kind(objects, "CronJob")
    config = the(objects, "ConfigMap", cron["metadata"]["name"])
    path = tmp_path / "template.yaml"
    path.write_text(config["data"]["template.yaml"])
    arguments = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["args"]
    (zone,) = [one.removeprefix("--time-zone=") for one in arguments if one.startswith("--time-zone=")]
    assert zone == cron["spec"]["timeZone"]
    moment = scheduled_at(None, f"{cron['metadata']['name']}-29727540", zone_of(zone))
    cycle = load_cycle(path, lambda value: filled(value, words_of(moment), where="template.yaml"))
    assert isinstance(cycle, RetrainCycle)
    settings = _settings(objects, tmp_path)
    assert cycle.spec.store.secret_ref is None or cycle.spec.store.secret_ref.name in settings.store.secrets
    assert settings.inference is not None
    assert settings.inference.archive == cycle.spec.archive


def test_words_and_numbers_of_the_template_come_through() -> None:
    text = the(case("try-out"), "ConfigMap", "refrain-schedule")["data"]["template.yaml"]
    spec = yaml.safe_load(text)["spec"]
    assert spec["sources"] == [{"mbox": "s3://refrain/incoming/{last_week}.mbox.gz"}]
    assert spec["deadlineSeconds"] == 1_000_000
    assert spec["store"] == {
        "url": "s3://refrain",
        "endpoint": "http://refrain-store:9000",
        "secretRef": {"name": "refrain-store"},
    }


def test_what_the_schedule_may_do() -> None:
    role = the(case("minimal"), "Role", "refrain-schedule")
    assert role["rules"] == [{"apiGroups": ["refrain.dev"], "resources": ["retraincycles"], "verbs": ["create"]}]


# ---- the inference server


@pytest.mark.parametrize("name", [name for name in NAMES if name != "controller"])
def test_the_adapter_comes_from_an_annotation_that_the_chart_never_sets(name: str) -> None:
    template = next(spec for owner, spec in pod_specs(case(name)) if owner.endswith("-inference"))
    assert not any(key.startswith("refrain.dev/") for key in template["metadata"].get("annotations", {}))
    sources = [
        one["valueFrom"]["fieldRef"]["fieldPath"]
        for container in (*template["spec"].get("initContainers", ()), *template["spec"]["containers"])
        for one in container.get("env", ())
        if one["name"] == "REFRAIN_ADAPTER"
    ]
    assert sources
    assert set(sources) == {"metadata.annotations['refrain.dev/adapter']"}


def _inference_containers(name: str) -> dict[str, Object]:
    template = the(case(name), "Deployment", "refrain-inference")["spec"]["template"]
    return {one["name"]: one for one in (*template["spec"].get("initContainers", ()), *template["spec"]["containers"])}


def test_a_pod_that_cannot_answer_in_time_is_started_again() -> None:
    """By a probe that is not well before it has answered: whether it lives says nothing of that."""
    serve = _inference_containers("try-out")["serve"]
    startup = serve["startupProbe"]
    assert startup["httpGet"] == serve["readinessProbe"]["httpGet"] != serve["livenessProbe"]["httpGet"]
    assert startup["failureThreshold"] * startup["periodSeconds"] == 605, "startupSeconds: 601, in steps of 5"


@pytest.mark.parametrize("name", ["minimal", "vllm"])
def test_what_an_inference_pod_ends_by_is_in_its_status(name: str) -> None:
    containers = _inference_containers(name)
    assert len(containers) == (3 if name == "vllm" else 1)
    assert {one.get("terminationMessagePolicy") for one in containers.values()} == {"FallbackToLogsOnError"}


@pytest.mark.parametrize("name", NAMES)
def test_only_who_needs_a_token_or_a_gpu_has_one(name: str) -> None:
    for owner, template in pod_specs(case(name)):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is owner.endswith(("-controller", "-schedule")), owner
        limits = [container["resources"].get("limits", {}) for container in spec["containers"]]
        has_gpu = any("nvidia.com/gpu" in one for one in limits)
        assert has_gpu is (owner.endswith("-inference") and name != "try-out"), owner


# ---- the resource definition


def test_the_definition_is_the_generated_one_and_is_kept() -> None:
    of_its_own = next(yaml.safe_load_all(helm("template", "refrain-crds", CRDS).stdout))
    (inside,) = of_kind(case("try-out"), "CustomResourceDefinition")
    for found in (of_its_own, inside):
        assert found["spec"] == custom_resource_definition()["spec"]
        assert found["metadata"]["name"] == custom_resource_definition()["metadata"]["name"]
        assert found["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert not list(of_kind(case("minimal"), "CustomResourceDefinition"))


# ---- two releases of one cluster


def test_cluster_wide_names_are_no_other_releases() -> None:
    names = []
    releases = [("refrain", "mail"), ("refrain", "lists"), ("other", "mail"), ("b-refrain", "a"), ("refrain", "a-b")]
    for release, namespace in releases:
        objects = rendered(*sets(NEEDED), release=release, namespace=namespace)
        names += [one["metadata"]["name"] for one in objects if "namespace" not in one["metadata"]]
    assert len(names) == 10
    assert len(set(names)) == 10


@pytest.mark.parametrize("name", NAMES)
def test_all_else_is_in_the_releases_namespace(name: str) -> None:
    cluster_wide = ("ClusterRole", "CustomResourceDefinition")
    for one in case(name):
        if "extra" not in one["metadata"]["name"] and not one["metadata"]["name"].endswith("-text"):
            assert (one["metadata"].get("namespace") == "mail") is (one["kind"] not in cluster_wide)


def test_names_leave_room_for_what_kubernetes_appends() -> None:
    release = "r" * 53
    for one in rendered(*sets(NEEDED | {"objectStore.enabled": True}), release=release):
        limit = {"CronJob": 52, "StatefulSet": 52}.get(one["kind"], 63)
        assert len(one["metadata"]["name"]) <= limit or one["kind"] == "ClusterRole", one["metadata"]["name"]


# ---- what it says in the end


def _notes(name: str) -> str:
    values = f"--values={CASES / name}.values.yaml"
    said = helm("install", "refrain", CHART, "--namespace=mail", "--dry-run=client", values).stdout
    return said.partition("\nNOTES:\n")[2]


SAID: dict[str, set[str]] = {
    "a definition of its own": {"helm install refrain-crds charts/refrain-crds"},
    "a schedule": {"A cycle is created at", "create job --from=cronjob/"},
    "no schedule": {"No schedule: create cycles by"},
    "inference": {"/v1/chat/completions", "-inference 8000:80", "-inference   # begins with"},
    "keys": {"'Authorization: Bearer …'"},
    "a store's secret": {"get secret refrain-store -o go-template=", "port-forward service/refrain-store 9000"},
    "sources": {"mbox: s3://refrain/incoming/{last_week}.mbox.gz"},
    "an upload": {"refrain upload 2026-W47.mbox.gz s3://refrain/incoming/"},
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("minimal", {"a definition of its own", "a schedule", "an upload", "inference"}),
        ("try-out", {"a schedule", "a store's secret", "inference", "sources"}),
        ("swap", {"a definition of its own", "no schedule", "inference", "keys"}),
        ("controller", {"a definition of its own", "no schedule"}),
    ],
)
def test_notes_say_what_to_do_next(name: str, expected: set[str]) -> None:
    notes = _notes(name)
    assert {what for what, texts in SAID.items() if any(text in notes for text in texts)} == expected
    assert not [text for what in expected for text in SAID[what] if text not in notes]


@pytest.mark.parametrize("name", NAMES)
def test_notes_name_what_is_there(name: str) -> None:
    named = re.findall(r"\b(deployment|cronjob|service)/([\w-]+)", _notes(name))
    assert named
    there = {(one["kind"].lower(), one["metadata"]["name"]) for one in case(name)}
    assert set(named) <= there
