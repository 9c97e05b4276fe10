"""`refrain cycle schedule`: a template and a scheduled minute make a cycle, the same one however often it is run."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml
from controller_world import spec_of

from controller.cli.scheduling import filled, scheduled_at, words_of, zone_of
from jobs.cli import main
from jobs.contracts.errors import ConfigError, UsageError

CRD = Path(__file__).parents[2] / "crds" / "refrain.dev_retraincycles.yaml"
NOON = datetime(2026, 11, 23, 11, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("job", "zone", "date", "time", "week"),
    [
        (f"weekly-{int(NOON.timestamp()) // 60}", "Etc/UTC", "2026-11-23", "1100", "2026-W48"),
        (f"weekly-{int(NOON.timestamp()) // 60}", "Pacific/Auckland", "2026-11-24", "0000", "2026-W48"),
        ("a-29873160", "Etc/UTC", "2026-10-19", "0600", "2026-W43"),
        (
            f"weekly-{int(datetime(2027, 1, 3, 23, tzinfo=UTC).timestamp()) // 60}",
            "Etc/UTC",
            "2027-01-03",
            "2300",
            "2026-W53",
        ),
        (
            f"weekly-{int(datetime(2027, 1, 3, 23, tzinfo=UTC).timestamp()) // 60}",
            "Europe/Berlin",
            "2027-01-04",
            "0000",
            "2027-W01",
        ),
    ],
)
def test_the_minute_is_the_job_s_in_the_cronjob_s_zone(job: str, zone: str, date: str, time: str, week: str) -> None:
    words = words_of(scheduled_at(None, job, zone_of(zone)))
    assert (words["date"], words["time"], words["week"]) == (date, time, week)


def test_the_week_before_the_first_is_the_year_s_before() -> None:
    assert words_of(datetime(2027, 1, 4, tzinfo=UTC))["last_week"] == "2026-W53"


@pytest.mark.parametrize(
    ("at", "hour"), [("2026-11-23T03:00", 3), ("2026-11-23T03:00+00:00", 4), ("2026-11-23 03:00Z", 4)]
)
def test_a_time_that_is_said_is_of_the_zone_unless_it_has_its_own(at: str, hour: int) -> None:
    assert scheduled_at(at, None, ZoneInfo("Europe/Berlin")).hour == hour


@pytest.mark.parametrize("job", [None, "", "weekly", "weekly-123", "29873160", "weekly-29873160-x7k2p"])
def test_a_name_without_a_minute_is_told(job: str | None) -> None:
    with pytest.raises(UsageError, match="no scheduled minute"):
        scheduled_at(None, job, ZoneInfo("Etc/UTC"))


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "", "../../etc/passwd", "/etc/localtime"])
def test_a_zone_that_there_is_not_is_told(zone: str) -> None:
    with pytest.raises(UsageError, match="no such time zone"):
        zone_of(zone)


def test_words_stand_in_texts_and_the_name_is_in_lower_case() -> None:
    template = {
        "metadata": {"name": "raid-{week}"},
        "spec": {"seed": 42, "sources": [{"mbox": "s3://m/{last_week}.mbox"}]},
    }
    assert filled(template, words_of(NOON), where="t") == {
        "metadata": {"name": "raid-2026-w48"},
        "spec": {"seed": 42, "sources": [{"mbox": "s3://m/2026-W47.mbox"}]},
    }


def test_a_name_without_words_gets_the_minute() -> None:
    assert (
        filled({"metadata": {"name": "raid"}}, words_of(NOON), where="t")["metadata"]["name"] == "raid-2026-11-23-1100"
    )


def test_a_word_that_there_is_not_is_told_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError) as caught:
        filled({"spec": {"archive": "x-{weak}"}}, words_of(NOON), where="template.yaml")
    assert "{weak}" in str(caught.value.what)
    assert caught.value.where == "template.yaml: spec.archive"
    assert "{last_week}" in caught.value.hint


def create_alone() -> list[dict[str, object]]:
    """A service account that may create cycles and nothing else."""
    group = "rbac.authorization.k8s.io"
    rule = {"apiGroups": ["refrain.dev"], "resources": ["retraincycles"], "verbs": ["create"]}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "schedule"}},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": {"name": "schedule"}, "rules": [rule]},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "schedule"},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "schedule"},
            "subjects": [{"kind": "ServiceAccount", "name": "schedule"}],
        },
    ]


@pytest.mark.cluster
def test_with_the_right_to_create_alone_and_run_twice(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    control_plane = request.getfixturevalue("control_plane")
    namespace = control_plane.new_namespace()
    control_plane.apply(CRD.read_text())
    control_plane.apply(create_alone(), namespace)
    control_plane.wait_for_right(namespace, "schedule", "create", "retraincycles", "refrain.dev")
    config = control_plane.service_account_kubeconfig(namespace, "schedule")
    monkeypatch.setenv("KUBECONFIG", str(config))
    monkeypatch.setenv("JOB_NAME", f"weekly-{int(NOON.timestamp()) // 60}")
    template = {
        "apiVersion": "refrain.dev/v1alpha1",
        "kind": "RetrainCycle",
        "metadata": {"name": "raid-{week}"},
        "spec": spec_of(archive="raid", sources=[{"mbox": "s3://mail/{week}.mbox.gz"}]),
    }
    file = tmp_path / "template.yaml"
    file.write_text(yaml.safe_dump(template))
    assert main(["cycle", "schedule", str(file), "--time-zone", "Europe/Berlin"]) == 0
    said = capsys.readouterr().out
    assert said == f"raid-2026-w48: created in namespace {namespace}, for 2026-11-23 12:00 CET\n"
    assert main(["cycle", "schedule", str(file), "--time-zone", "Europe/Berlin"]) == 0
    assert "is there already" in capsys.readouterr().out
    made = control_plane.api.get("refrain.dev/v1alpha1/RetrainCycle", "raid-2026-w48", namespace)
    assert made["spec"]["sources"] == [{"mbox": "s3://mail/2026-W48.mbox.gz"}]
    with pytest.raises(SystemExit) as stopped:
        main(["cycle", "list"])
    assert stopped.value.code == 77, "it may do nothing else"
    control_plane.delete_namespace(namespace)
