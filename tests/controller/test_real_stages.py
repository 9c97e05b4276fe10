"""The laptop and the cluster are the same thing: each stage's Job runs its real command over a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster.api import Object, wait_for
from cluster.kubelet import Run
from controller_process import operator
from local.killing import contents

pytest.importorskip("torch", reason="the training half needs the extra `train`")

from local.cycles import WEEKS, write_mbox
from local.models import whole_cycle, write_models

if TYPE_CHECKING:
    from cluster.control_plane import ControlPlane
    from cluster.kubelet import Kubelet
    from conftest import Refrain

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1500)]
SHARES = "cycles/w1/evaluate/shares/"
"""What the pods of the evaluation leave besides."""
OWNER = "owner/"
"""A cluster's claim of the archive stays, a laptop's does not."""


@pytest.fixture
def cycle(tmp_path: Path) -> Object:
    """A cycle whose paths hold everywhere on this machine."""
    place = write_models(tmp_path / "place")
    write_mbox(place / "1.mbox", weeks=WEEKS[:1], num_mails=60)
    made = whole_cycle("w1", str(place / "1.mbox"), store={"url": (tmp_path / "cluster").as_uri()})
    made["spec"]["model"]["base"] = str(place / "base")
    made["spec"]["evaluation"] |= {"embeddingModel": str(place / "embedder"), "pods": 2}
    return made


def test_a_cluster_leaves_the_bytes_that_a_laptop_leaves(
    control_plane: ControlPlane, kubelet: Kubelet, namespace: str, tmp_path: Path, cycle: Object, refrain: Refrain
) -> None:
    """The train stage is stopped on the way and goes on, and evaluate is shared by two pods: that changes nothing."""
    local = json.loads(json.dumps(cycle))
    local["spec"]["store"]["url"] = (tmp_path / "laptop").as_uri()
    (tmp_path / "cycle.json").write_text(json.dumps(local))
    done = refrain("run", tmp_path / "cycle.json", "--workers", 1, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    expected = contents((tmp_path / "laptop/workshop").as_uri())
    kubelet.rule = lambda _pod: Run()
    with operator(control_plane, namespace, tmp_path, gpuResource="", graceSeconds=60) as made:
        made.start()
        control_plane.api.create(cycle, namespace)
        _stop_and_go_on(made, tmp_path / "cluster/workshop")
        status = made.wait("w1", "Promoted", 1200)
    found = contents((tmp_path / "cluster/workshop").as_uri())
    assert {key for key in found if key.startswith(OWNER)}
    assert sum(key.startswith(SHARES) for key in found) == 2
    assert {key: data for key, data in found.items() if not key.startswith((OWNER, SHARES))} == expected
    promoted = next(json.loads(data) for key, data in expected.items() if key.startswith("production/"))
    assert status["candidate"]["sha256"] == promoted["sha256"]
    assert status["log"]["seq"] >= 0
    assert next(entry for entry in status["stages"] if entry["name"] == "train")["run"] == 1


def _stop_and_go_on(made, archive: Path) -> None:
    job = made.wait_stage("w1", "train", 600)
    wait_for(lambda: list(archive.glob("cycles/w1/train/checkpoints/*/_COMPLETE.json")), 300, "a checkpoint")
    made.edit("w1", suspend=True)
    made.wait("w1", "Suspended", 120)
    wait_for(lambda: not [pod for pod in made.pods() if pod["metadata"]["name"].startswith(job)], 120, "it has saved")
    made.edit("w1", suspend=False)
