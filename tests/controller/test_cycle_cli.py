"""`refrain cycle` on a real control plane, beside a real controller: one namespace, an archive for each test."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from cluster.api import Object, wait_for
from cluster.control_plane import write_kubeconfig
from controller_commands import World, running, short
from controller_process import failing, played, stage_of
from controller_world import WINNER, spec_of

from jobs.contracts.errors import InputError

if TYPE_CHECKING:
    from cluster.control_plane import ControlPlane
    from cluster.kubelet import Play

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def world(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running(control_plane, tmp_path_factory) as made:
        yield made


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


def test_from_create_to_promoted(world: World, tmp_path: Path) -> None:
    file = written(tmp_path, "first", "happy")
    dry = world.cycle("create", file, "--dry-run")
    assert (dry.code, dry.err) == (0, "")
    assert dry.out == f"first: would be created (dry run) in namespace {world.operator.namespace}, for archive happy\n"
    assert world.cycle("show", "first").code == 66, "a dry run creates nothing"
    made = world.cycle("create", "-", "--name", "second", answer=file.read_text())
    assert made.out.startswith("second: created in namespace")
    again = world.cycle("create", file, "--name", "second")
    assert again.code == 65
    assert "there is a cycle second already" in again.err
    assert "--name" in again.err

    watched = world.cycle("watch", "second")
    assert watched.code == 0, watched
    lines = watched.out.splitlines()
    assert lines[-1] == "Promoted: step_4 is better"
    assert any("  train: done in " in line and line.endswith("best eval loss 1.5") for line in lines), lines
    assert world.cycle("watch", "second").out.splitlines()[-1] == lines[-1], "also when it has ended already"

    listed = world.cycle("list", "--archive", "happy").out.splitlines()
    assert listed[0].split()[:4] == ["NAME", "ARCHIVE", "STATE", "STAGE"]
    assert listed[1].split()[:8] == ["second", "happy", "Promoted", "promote", "-", "3", "+0.1000", "True"]
    nothing = world.cycle("list", "--archive", "nowhere")
    assert (nothing.code, nothing.out) == (0, "")
    assert "no cycles of archive nowhere in namespace" in nothing.err
    (raw,) = json.loads(world.cycle("list", "--json", "--archive", "happy").out)
    assert raw["status"]["state"] == "Promoted"
    assert "managedFields" not in raw["metadata"]

    shown = world.cycle("show", "second").out
    assert f"candidate cycles/w1/train/checkpoints/step_4 {WINNER} ppl 3.5" in shown
    assert "Normal Promoted: Promoted: step_4 is better" in shown
    assert json.loads(world.cycle("show", "second", "--json").out)["metadata"]["name"] == "second"
    for asked in (("retry", "second"), ("suspend", "second"), ("approve", "second")):
        refused = world.cycle(*asked)
        assert refused.code == 2, refused
        assert "Promoted" in refused.err


def test_a_file_that_is_wrong_is_refused_with_its_line(world: World, tmp_path: Path) -> None:
    file = written(tmp_path, "wrong", "wrong")
    file.write_text(file.read_text() + "  trainnig: {epochs: 3}\n")
    refused = world.cycle("create", file)
    assert refused.code == 78
    assert f"{file}, line {len(file.read_text().splitlines())}: spec.trainnig: there is no such field" in refused.err
    file = written(tmp_path, "wrong", "wrong")
    assert world.cycle("create", file, "--name", "No Name").code == 2
    elsewhere = yaml.safe_load(file.read_text())
    elsewhere["metadata"]["namespace"] = "elsewhere"
    file.write_text(yaml.safe_dump(elsewhere))
    assert world.cycle("create", file, "-n", world.operator.namespace).code == 2
    missing = world.cycle("create", file)
    assert missing.code == 66
    assert 'namespaces "elsewhere" not found' in missing.err


def test_failed_and_retried(world: World) -> None:
    def rule(pod: Object) -> Play:
        return failing(pod, InputError("cut", where="x")) if stage_of(pod)[0] == "split" else played(pod)

    world.rules["failed"] = rule
    world.operator.create("failed", archive="failed")
    watched = world.cycle("watch", "failed")
    assert watched.code == 65
    assert "refrain: error: failed: split: x: cut (exit code 65)" in watched.err
    assert "refrain cycle retry failed" in watched.err
    assert "→ mend it, then refrain cycle retry failed" in world.cycle("show", "failed").out
    world.rules["failed"] = short
    retried = world.cycle("retry", "failed")
    assert retried.out.startswith("failed: goes on from split when its turn comes (refrain.dev/retry=")
    world.operator.wait("failed", "Skipped")


def test_suspended_and_resumed(world: World, tmp_path: Path) -> None:
    world.cycle("create", written(tmp_path, "suspended", "suspended"), "--suspend")
    world.operator.wait("suspended", "Suspended")
    assert "is suspended already" in world.cycle("suspend", "suspended").out
    assert "→ refrain cycle resume suspended" in world.cycle("show", "suspended").out
    world.hang_at("suspended", "split")
    assert "resumed" in world.cycle("resume", "suspended").out
    assert "is not suspended" in world.cycle("resume", "suspended").out
    world.operator.wait_stage("suspended", "split")
    assert "suspended; what runs saves and stops" in world.cycle("suspend", "suspended").out
    world.operator.wait("suspended", "Suspended")
    world.rules["suspended"] = short
    world.cycle("resume", "suspended")
    world.operator.wait("suspended", "Skipped")


def test_approved(world: World) -> None:
    world.hang_at("manual", "split")
    world.operator.create("manual", archive="manual", promotion={"mode": "Manual"})
    world.operator.wait_stage("manual", "split")
    early = world.cycle("approve", "manual", "--yes")
    assert early.code == 2
    assert "manual has no candidate yet: it is Running at split" in early.err
    world.go_on("manual", "manual", played)
    world.operator.wait("manual", "AwaitingApproval")
    other = world.cycle("approve", "manual", "b" * 64, "--yes")
    assert other.code == 2
    assert f"the candidate of manual is {WINNER}, not bbbb" in other.err
    declined = world.cycle("approve", "manual", answer="n\n")
    assert declined.code == 130
    assert f"candidate  cycles/w1/train/checkpoints/step_4 {WINNER}" in declined.err
    assert "promotion" not in world.operator.get("manual")["spec"] or "approve" not in world.operator.get("manual")[
        "spec"
    ].get("promotion", {})
    approved = world.cycle("approve", "manual", answer="y\n")
    assert approved.out.endswith(f"manual: {WINNER} is approved\n")
    world.operator.wait("manual", "Promoted")


def test_deleted(world: World) -> None:
    world.hang_at("deleted", "split")
    world.operator.create("deleted", archive="deleted")
    world.operator.wait_stage("deleted", "split")
    declined = world.cycle("delete", "deleted", answer="n\n")
    assert declined.code == 130
    assert "deleted is Running: split. Delete it?" in declined.err
    watcher = world.start("watch", "deleted")
    assert watcher.stdout is not None
    watcher.stdout.readline()
    done = world.cycle("delete", "deleted", "--yes")
    assert done.out == "deleted: deleted; what is in s3://refrain/deleted stays as it is\n"
    _, said = watcher.communicate(timeout=30)
    assert watcher.returncode == 66
    assert "cycle deleted was deleted" in said
    wait_for(lambda: not [job for job in world.operator.jobs() if job["metadata"]["name"].startswith("deleted-")])


def test_rights_that_are_missing_are_named(world: World, control_plane: ControlPlane, tmp_path: Path) -> None:
    namespace = world.operator.namespace
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
    world.operator.create("looked-at", archive="looked-at", suspend=True)
    refused = world.cycle("create", written(tmp_path, "mine", "mine"), kubeconfig=looker)
    assert refused.code == 77
    assert "looker may not create retraincycles.refrain.dev" in refused.err
    assert 'verbs: ["create"]' in refused.err
    shown = world.cycle("show", "looked-at", kubeconfig=looker)
    assert shown.code == 0
    assert "without events: " in shown.err
    file = tmp_path / "report.tar.gz"
    gathered = world.cycle("gather", "looked-at", "-o", file, kubeconfig=looker)
    assert gathered.code == 0
    assert "without pods: " in gathered.err
    with tarfile.open(file) as archive:
        assert "looked-at/missing.txt" in archive.getnames()


def test_no_cluster_no_context_no_cycle(world: World, control_plane: ControlPlane, tmp_path: Path) -> None:
    nowhere = world.cycle("list", kubeconfig=tmp_path / "none")
    assert nowhere.code == 77
    assert "set KUBECONFIG" in nowhere.err
    assert world.cycle("list", "--context", "other").code == 77
    broken = tmp_path / "broken"
    broken.write_text("{")
    assert world.cycle("list", kubeconfig=broken).code == 77
    stranger = write_kubeconfig(tmp_path / "stranger", control_plane.server, "wrong", control_plane.ca)
    refused = world.cycle("list", kubeconfig=stranger)
    assert refused.code == 77
    assert "does not know you" in refused.err
    silent = write_kubeconfig(tmp_path / "silent", "https://127.0.0.1:9", "x")
    away = world.cycle("list", kubeconfig=silent)
    assert away.code == 75
    assert "is https://127.0.0.1:9 the right one, and is it up?" in away.err
    world.operator.create("close-by", archive="close", suspend=True)
    missing = world.cycle("show", "close-bye")
    assert missing.code == 66
    assert "did you mean close-by?" in missing.err
    several = yaml.safe_load(world.kubeconfig.read_text())
    del several["current-context"]
    without = tmp_path / "several"
    without.write_text(yaml.safe_dump(several))
    assert world.cycle("list", "--context", "test", kubeconfig=without).code == 0
    assert world.cycle("list", kubeconfig=without).code == 77
