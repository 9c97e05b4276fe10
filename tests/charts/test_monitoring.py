"""What the chart makes for Prometheus and Grafana: monitors that meet their pods, alerts that fire, a dashboard."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cluster import programs
from helm import CASES, NAMES, NEEDED, alerts, case, of_kind, pod_specs, rendered, sets, the
from prometheus_client.metrics import MetricWrapperBase
from stage_jobs import wanted

from controller import metrics
from controller.manifests import stage_job
from jobs.contracts.stages import STAGES
from jobs.ml.training.progress import METRICS as TRAIN_METRICS
from jobs.serving.metrics import Metrics

if TYPE_CHECKING:
    from cluster.api import Object

ALERTS = CASES / "alerts"
WATCHED = {"monitoring.podMonitor.enabled": True, "monitoring.serviceMonitor.enabled": True}


# ---- monitors


def _watched(name: str) -> list[Object]:
    return rendered(f"--values={CASES / name}.values.yaml", *sets(WATCHED))


def _meets(labels: dict[str, str], selector: Object) -> bool:
    assert set(selector) == {"matchLabels"}
    return bool(selector["matchLabels"].items() <= labels.items())


def _stage_pods() -> dict[str, Object]:
    """The template of each stage's pod, as the controller makes it."""
    spec = {"archive": "a", "store": {"url": "s3://b"}, "model": {"base": "org/model"}}
    return {row.name: stage_job(*wanted({"spec": spec, "stage": row.name}))["spec"]["template"] for row in STAGES}


def _ports(template: Object) -> set[str]:
    return {port["name"] for one in template["spec"]["containers"] for port in one.get("ports", ())}


@pytest.mark.parametrize("name", NAMES)
def test_a_pod_monitor_meets_the_pods_that_it_is_for(name: str) -> None:
    objects = _watched(name)
    pods = dict(pod_specs(objects)) | _stage_pods()
    monitors = list(of_kind(objects, "PodMonitor"))
    assert len(monitors) == 2
    for monitor in monitors:
        spec = monitor["spec"]
        owner = monitor["metadata"]["name"]
        met = {one: pod for one, pod in pods.items() if _meets(pod["metadata"]["labels"], spec["selector"])}
        (found,) = met
        assert found == ("train" if owner.endswith("-train") else owner)
        assert {one["port"] for one in spec["podMetricsEndpoints"]} <= _ports(met[found])
        assert set(spec.get("podTargetLabels", ())) <= met[found]["metadata"]["labels"].keys()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "controller"])
def test_the_service_monitor_meets_the_inference_servers_alone(name: str) -> None:
    objects = _watched(name)
    (monitor,) = of_kind(objects, "ServiceMonitor")
    services = [
        one for one in of_kind(objects, "Service") if _meets(one["metadata"]["labels"], monitor["spec"]["selector"])
    ]
    (service,) = services
    ports = {port["name"]: port["targetPort"] for port in service["spec"]["ports"]}
    (pod,) = (
        template
        for _, template in pod_specs(objects)
        if service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    )
    for endpoint in monitor["spec"]["endpoints"]:
        assert ports[endpoint["port"]] in _ports(pod)


def test_without_inference_there_is_no_service_to_monitor() -> None:
    assert not list(of_kind(_watched("controller"), "ServiceMonitor"))


# ---- metrics that alerts and dashboard name


def _known_metrics() -> dict[str, set[str]]:
    """What the controller, a training and the inference server tell of themselves, and by which labels."""
    known: dict[str, set[str]] = {name: set() for name, _ in TRAIN_METRICS.values()}
    for metric in (*vars(metrics).values(), *vars(Metrics()).values(), *Metrics()._watched.values()):
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
            known |= {family.name + suffix: set(metric._labelnames) for suffix in suffixes}
    return known


def _board() -> Any:
    return json.loads(the(case("cloud"), "ConfigMap", "refrain-dashboard")["data"]["mail-refrain.json"])


def _expressions(board: Any) -> list[str]:
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def test_alerts_and_dashboard_know_only_metrics_and_labels_that_there_are() -> None:
    board, known = _board(), _known_metrics()
    texts = [*_expressions(board), *(rule["expr"] for rule in alerts(case("cloud")))]
    texts += [one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"]
    used = [set(re.findall(r"refrain_\w+", text)) for text in texts]
    assert all(used)
    assert set().union(*used) <= known.keys()
    for text, names in zip(texts, used, strict=True):
        labels = {"namespace", "le"}.union(*(known[name] for name in names))
        asked = re.findall(r'(\w+)(?:=~?|!~|!=)"', text)
        asked += [one for group in re.findall(r"\bby \(([^)]*)\)", text) for one in re.findall(r"\w+", group)]
        assert set(asked) <= labels, text


# ---- the dashboard


def test_the_dashboard_is_one() -> None:
    board = _board()
    assert board["title"] == "Refrain mail/refrain"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert "@" not in json.dumps(board)


def test_prometheus_reads_what_the_panels_ask(tmp_path: Path) -> None:
    """Each expression as a recording rule, with Grafana's variables filled in."""
    board = _board()
    variables = {one["name"]: ".*" for one in board["templating"]["list"]} | {"__rate_interval": "5m"}
    rules = []
    for number, text in enumerate(_expressions(board)):
        filled = re.sub(r"\$\{?(\w+)\}?", lambda found: variables[found[1]], text)
        rules.append({"record": f"panel:{number}", "expr": filled})
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in _promtool(tmp_path, "check", "rules", "rules.yaml")


# ---- alerts


def _promtool(folder: Path, *arguments: str) -> str:
    """What promtool says; on failure, that is in the AssertionError."""
    command = [programs.binary("promtool"), *arguments]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The chart's alerts, in a file where promtool's cases look for them."""
    (made,) = of_kind(case("cloud"), "PrometheusRule")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(made["spec"]))
    return tmp_path


def test_prometheus_takes_the_alerts(rules: Path) -> None:
    assert f"SUCCESS: {len(alerts(case('cloud')))} rules found" in _promtool(rules, "check", "rules", "rules.yaml")


@pytest.mark.parametrize("name", ["minutes", "weeks"])
def test_alerts_fire_when_they_should(rules: Path, name: str) -> None:
    (rules / "series.yaml").write_text((ALERTS / f"{name}.yaml").read_text())
    _promtool(rules, "test", "rules", "series.yaml")


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    files = [yaml.safe_load(path.read_text()) for path in sorted(ALERTS.glob("*.yaml"))]
    cases = [one for file in files for test in file["tests"] for one in test["alert_rule_test"]]
    names = {rule["alert"] for rule in alerts(case("cloud"))}
    assert {one["alertname"] for one in cases if one.get("exp_alerts")} == names
    assert {one["alertname"] for one in cases if not one.get("exp_alerts")} == names


def test_without_inference_no_alert_misses_it() -> None:
    """An expression over what nobody tells would be silent for ever, or never."""
    values = {"inference.enabled": False, "monitoring.prometheusRule.enabled": True}
    found = alerts(rendered(*sets(NEEDED | values)))
    assert "RefrainControllerAway" in {rule["alert"] for rule in found}
    assert not [rule for rule in found if "inference" in json.dumps(rule)]
    assert {"RefrainServesNothing", "RefrainAnswersFail", "RefrainServesSeveral"} < {
        rule["alert"] for rule in alerts(case("cloud"))
    }
