"""`refrain cycle` on a real control plane, beside a real controller: one namespace, an archive for each test."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from cluster.api import Object, wait_for
from cluster.control_plane import write_kubeconfig
from controller_commands import Commands, short
from controller_process import failing, played, stage_of
from controller_world import WINNER, spec_of

from jobs.contracts.errors import InputError

if TYPE_CHECKING:
    from cluster.control_plane import ControlPlane
    from cluster.kubelet import Play

pytestmark = pytest.mark.cluster


def written(folder: Path, name: str, archive: str, **changes: object) -> Path:
    file = folder / "cycle.yaml"
    document = {
        "apiVersion": "refrain.dev/v1alpha1",
        "kind": "RetrainCycle",
        "metadata": {"name": name},
        "spec": spec_of(archive=archive, **changes),
    }
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


def test_from_create_to_promoted(cli: Commands, tmp_path: Path) -> None:
    file = written(tmp_path, "first", "happy")
    dry = cli.cycle("create", file, "--dry-run")
    assert (dry.code, dry.err) == (0, "")
    assert dry.out == f"first: would be created (dry run) in namespace {cli.operator.namespace}, for archive happy\n"
    assert cli.cycle("show", "first").code == 66, "a dry run creates nothing"
    made = cli.cycle("create", "-", "--name", "second", answer=file.read_text())
    assert made.out.startswith("second: created in namespace")
    again = cli.cycle("create", file, "--name", "second")
    assert again.code == 65
    assert "there is a cycle second already" in again.err
    assert "--name" in again.err

    watched = cli.cycle("watch", "second")
    assert watched.code == 0, watched
    lines = watched.out.splitlines()
    assert lines[-1] == "Promoted: step_4 is better"
    assert any("  train: done in " in line and line.endswith("best eval loss 1.5") for line in lines), lines
    assert cli.cycle("watch", "second").out.splitlines()[-1] == lines[-1], "also when it has ended already"

    listed = cli.cycle("list", "--archive", "happy").out.splitlines()
    assert listed[0].split()[:4] == ["NAME", "ARCHIVE", "STATE", "STAGE"]
    assert listed[1].split()[:8] == ["second", "happy", "Promoted", "promote", "-", "3", "+0.1000", "True"]
    nothing = cli.cycle("list", "--archive", "nowhere")
    assert (nothing.code, nothing.out) == (0, "")
    assert "no cycles of archive nowhere in namespace" in nothing.err
    (raw,) = json.loads(cli.cycle("list", "--json", "--archive", "happy").out)
    assert raw["status"]["state"] == "Promoted"
    assert "managedFields" not in raw["metadata"]

    shown = cli.cycle("show", "second").out
    assert f"candidate cycles/w1/train/checkpoints/step_4 {WINNER} ppl 3.5" in shown
    assert "Normal Promoted: Promoted: step_4 is better" in shown
    assert json.loads(cli.cycle("show", "second", "--json").out)["metadata"]["name"] == "second"
    for asked in (("retry", "second"), ("suspend", "second"), ("approve", "second")):
        refused = cli.cycle(*asked)
        assert refused.code == 2, refused
        assert "Promoted" in refused.err


def test_a_file_that_is_wrong_is_refused_with_its_line(cli: Commands, tmp_path: Path) -> None:
    file = written(tmp_path, "wrong", "wrong")
    file.write_text(file.read_text() + "  trainnig: {epochs: 3}\n")
    refused = cli.cycle("create", file)
    assert refused.code == 78
    assert f"{file}, line {len(file.read_text().splitlines())}: spec.trainnig: there is no such field" in refused.err
    file = written(tmp_path, "wrong", "wrong")
    assert cli.cycle("create", file, "--name", "No Name").code == 2
    elsewhere = yaml.safe_load(file.read_text())
    elsewhere["metadata"]["namespace"] = "elsewhere"
    file.write_text(yaml.safe_dump(elsewhere))
    assert cli.cycle("create", file, "-n", cli.operator.namespace).code == 2
    missing = cli.cycle("create", file)
    assert missing.code == 66
    assert 'namespaces "elsewhere" not found' in missing.err


def test_failed_and_retried(cli: Commands) -> None:
    def rule(pod: Object) -> Play:
        return failing(pod, InputError("cut", where="x")) if stage_of(pod)[0] == "split" else played(pod)

    cli.rules["failed"] = rule
    cli.operator.create("failed", archive="failed")
    watched = cli.cycle("watch", "failed")
    assert watched.code == 65
    assert "refrain: error: failed: split: x: cut (exit code 65)" in watched.err
    assert "refrain cycle retry failed" in watched.err
    assert "→ mend it, then refrain cycle retry failed" in cli.cycle("show", "failed").out
    cli.rules["failed"] = short
    retried = cli.cycle("retry", "failed")
    assert retried.out.startswith("failed: goes on from split when its turn comes (refrain.dev/retry=")
    cli.operator.wait("failed", "Skipped")


def test_suspended_and_resumed(cli: Commands, tmp_path: Path) -> None:
    cli.cycle("create", written(tmp_path, "suspended", "suspended"), "--suspend")
    cli.operator.wait("suspended", "Suspended")
    assert "is suspended already" in cli.cycle("suspend", "suspended").out
    assert "→ refrain cycle resume suspended" in cli.cycle("show", "suspended").out
    cli.hang_at("suspended", "split")
    assert "resumed" in cli.cycle("resume", "suspended").out
    assert "is not suspended" in cli.cycle("resume", "suspended").out
    cli.operator.wait_stage("suspended", "split")
    assert "suspended; what runs saves and stops" in cli.cycle("suspend", "suspended").out
    cli.operator.wait("suspended", "Suspended")
    cli.rules["suspended"] = short
    cli.cycle("resume", "suspended")
    cli.operator.wait("suspended", "Skipped")


def test_approved(cli: Commands) -> None:
    cli.hang_at("manual", "split")
    cli.operator.create("manual", archive="manual", promotion={"mode": "Manual"})
    cli.operator.wait_stage("manual", "split")
    early = cli.cycle("approve", "manual", "--yes")
    assert early.code == 2
    assert "manual has no candidate yet: it is Running at split" in early.err
    cli.go_on("manual", "manual", played)
    cli.operator.wait("manual", "AwaitingApproval")
    other = cli.cycle("approve", "manual", "b" * 64, "--yes")
    assert other.code == 2
    assert f"the candidate of manual is {WINNER}, not bbbb" in other.err
    declined = cli.cycle("approve", "manual", answer="n\n")
    assert declined.code == 130
    assert f"candidate  cycles/w1/train/checkpoints/step_4 {WINNER}" in declined.err
    assert "promotion" not in cli.operator.get("manual")["spec"] or "approve" not in cli.operator.get("manual")[
        "spec"
    ].get("promotion", {})
    approved = cli.cycle("approve", "manual", answer="y\n")
    assert approved.out.endswith(f"manual: {WINNER} is approved\n")
    cli.operator.wait("manual", "Promoted")


def test_deleted(cli: Commands) -> None:
    cli.hang_at("deleted", "split")
    cli.operator.create("deleted", archive="deleted")
    cli.operator.wait_stage("deleted", "split")
    declined = cli.cycle("delete", "deleted", answer="n\n")
    assert declined.code == 130
    assert "deleted is Running: split. Delete it?" in declined.err
    watcher = cli.start("watch", "deleted")
    assert watcher.stdout is not None
    watcher.stdout.readline()
    done = cli.cycle("delete", "deleted", "--yes")
    assert done.out == "deleted: deleted; what is in s3://refrain/deleted stays as it is\n"
    _, said = watcher.communicate(timeout=30)
    assert watcher.returncode == 66
    assert "cycle deleted was deleted" in said
    wait_for(lambda: not [job for job in cli.operator.jobs() if job["metadata"]["name"].startswith("deleted-")])


def test_rights_that_are_missing_are_named(cli: Commands, control_plane: ControlPlane, tmp_path: Path) -> None:
    namespace = cli.operator.namespace
    group = "rbac.authorization.k8s.io"
    rules = [{"apiGroups": ["refrain.dev"], "resources": ["retraincycles"], "verbs": ["get", "list"]}]
    subject = {"kind": "ServiceAccount", "name": "looker"}
    reference = {"apiGroup": group, "kind": "Role", "name": "looker"}
    for one in (
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "looker"}},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": {"name": "looker"}, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "looker"},
            "roleRef": reference,
            "subjects": [subject],
        },
    ):
        control_plane.api.create(one, namespace)
    looker = control_plane.service_account_kubeconfig(namespace, "looker")
    control_plane.wait_for_right(namespace, "looker", "list", "retraincycles", "refrain.dev")
    cli.operator.create("looked-at", archive="looked-at", suspend=True)
    refused = cli.cycle("create", written(tmp_path, "mine", "mine"), kubeconfig=looker)
    assert refused.code == 77
    assert "looker may not create retraincycles.refrain.dev" in refused.err
    assert 'verbs: ["create"]' in refused.err
    shown = cli.cycle("show", "looked-at", kubeconfig=looker)
    assert shown.code == 0
    assert "without events: " in shown.err
    file = tmp_path / "report.tar.gz"
    gathered = cli.cycle("gather", "looked-at", "-o", file, kubeconfig=looker)
    assert gathered.code == 0
    assert "without pods: " in gathered.err
    with tarfile.open(file) as archive:
        assert "looked-at/missing.txt" in archive.getnames()


def test_no_cluster_no_context_no_cycle(cli: Commands, control_plane: ControlPlane, tmp_path: Path) -> None:
    nowhere = cli.cycle("list", kubeconfig=tmp_path / "none")
    assert nowhere.code == 77
    assert "set KUBECONFIG" in nowhere.err
    assert cli.cycle("list", "--context", "other").code == 77
    broken = tmp_path / "broken"
    broken.write_text("{")
    assert cli.cycle("list", kubeconfig=broken).code == 77
    stranger = write_kubeconfig(tmp_path / "stranger", control_plane.server, "wrong", control_plane.ca)
    refused = cli.cycle("list", kubeconfig=stranger)
    assert refused.code == 77
    assert "does not know you" in refused.err
    silent = write_kubeconfig(tmp_path / "silent", "https://127.0.0.1:9", "x")
    away = cli.cycle("list", kubeconfig=silent)
    assert away.code == 75
    assert "is https://127.0.0.1:9 the right one, and is it up?" in away.err
    cli.operator.create("close-by", archive="close", suspend=True)
    missing = cli.cycle("show", "close-bye")
    assert missing.code == 66
    assert "did you mean close-by?" in missing.err
    several = yaml.safe_load(cli.kubeconfig.read_text())
    del several["current-context"]
    without = tmp_path / "several"
    without.write_text(yaml.safe_dump(several))
    assert cli.cycle("list", "--context", "test", kubeconfig=without).code == 0
    assert cli.cycle("list", kubeconfig=without).code == 77
