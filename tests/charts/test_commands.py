"""Commands that NOTES and pages tell people to run, run on a real API server. There are no nodes: pods wait."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from controller.cli.scheduling import scheduled_at, words_of, zone_of

if TYPE_CHECKING:
    from helm_release import Release

pytestmark = pytest.mark.cluster

BACKUP = Path(__file__).parents[2] / "docs" / "backup.md"
ZONE = "Asia/Tokyo"


def _command(notes: str, part: str) -> str:
    """The one of the NOTES in which that stands."""
    (found,) = (line for line in notes.splitlines() if part in line)
    return found


def test_the_notes_make_a_cycle_now(release: Release, tmp_path: Path) -> None:
    """The Job's name says the minute, and what its pod would run makes the cycle of that minute."""
    notes = release.install(schedule__timeZone=ZONE).stdout
    before = datetime.now(UTC).replace(second=0, microsecond=0)
    release.shell(_command(notes, " create job "))
    (job,) = release.api.list("batch/v1/Job", release.namespace)
    name, pod = job["metadata"]["name"], job["spec"]["template"]
    moment = scheduled_at(None, name, zone_of(ZONE))
    assert before <= moment <= datetime.now(UTC)
    assert pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] == name

    config = release.api.get("v1/ConfigMap", "refrain-schedule", release.namespace)
    (tmp_path / "template.yaml").write_text(config["data"]["template.yaml"])
    (container,) = pod["spec"]["containers"]
    command = " ".join([*container["command"], *container["args"]]).replace("/etc/refrain", str(tmp_path))
    release.shell(f"{command} -n mail", JOB_NAME=name)
    words = words_of(moment)
    listed = release.shell(_command(notes, "get retraincycles").removesuffix(" --watch"))
    assert f"mail-{words['date']}-{words['time']}" in listed


def test_the_notes_show_the_stores_credentials(release: Release) -> None:
    values = {"objectStore__enabled": True, "store__existingSecret": "", "store__url": ""}
    notes = release.install(**values).stdout
    said = release.shell(_command(notes, "get secret"))
    data = release.api.get("v1/Secret", "refrain-store", release.namespace)["data"]
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= data.keys()
    assert said.splitlines() == [f"{key}={base64.b64decode(value).decode()}" for key, value in sorted(data.items())]


def test_a_cluster_stands_still_while_its_archive_is_restored(release: Release) -> None:
    section = BACKUP.read_text().partition("\n## On a cluster\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    release.install()
    template = release.api.get("v1/ConfigMap", "refrain-schedule", release.namespace)["data"]["template.yaml"]
    release.control_plane.apply(template.replace('name: "mail"', "name: under-way"), release.namespace)

    def is_suspended() -> bool:
        return bool(release.api.get("batch/v1/CronJob", "refrain-schedule", release.namespace)["spec"]["suspend"])

    assert not is_suspended()
    assert "under-way" in release.shell(block)
    assert is_suspended()
    on_again = block.replace('"suspend": true', '"suspend": false')
    assert '"suspend": false' in section
    release.shell(on_again)
    assert not is_suspended()
