"""Pods evicted, deleted and killed, the store and the API server restarted: a cycle ends as it would have."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster.api import wait_for

from e2e import kube
from e2e.releases import Release

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
INDEX = "batch.kubernetes.io/job-completion-index"
LONG = {"epochs": 100, "batchSize": 4, "learningRate": 0.005, "precision": "fp32", "saveSteps": 25}
SPEC = {
    "training": LONG,
    "evaluation": {"embeddingModel": "s3://refrain/models/embedder", "maxQueries": 0},
    "retention": {"checkpoints": 3},
}


@pytest.fixture(scope="module")
def release(new_release: Callable[..., Release]) -> Release:
    return new_release("harms", inference={"enabled": False}, schedule={"enabled": False})


@pytest.fixture(scope="module")
def undisturbed(release: Release) -> Callable[[int], str]:
    """The adapter's digest of a cycle that nothing disturbs, trained in so many pods."""
    known: dict[int, str] = {}

    def digest(nodes: int) -> str:
        if nodes not in known:
            name = f"undisturbed-{nodes}"
            release.create(name, archive=name, **SPEC | {"training": {**LONG, "nodes": nodes}})
            known[nodes] = release.wait(name, "Promoted")["status"]["candidate"]["sha256"]
        return known[nodes]

    return digest


def test_a_cycle_ends_as_it_would_have_whatever_is_restarted(
    release: Release, undisturbed: Callable[[int], str]
) -> None:
    expected = undisturbed(1)
    seed = int(os.environ.get("REFRAIN_E2E_SEED") or random.SystemRandom().randrange(10**6))
    print(f"harms at random moments: REFRAIN_E2E_SEED={seed}")
    dice = random.Random(seed)
    # Those of the training first, while it surely trains; the others meet it, or what comes behind it.
    of_training, others = [evict_train, delete_train], [delete_controller, restart_store, restart_api_server]
    dice.shuffle(of_training)
    dice.shuffle(others)
    release.create("harmed", archive="harmed", **SPEC)
    for harm in of_training + others:
        if harm in of_training:
            wait_for(lambda: release.running("harmed", "train"), 300, "it trains")
            wait_for(lambda: release.num_checkpoints("harmed") > 0, 300, "a checkpoint")
        time.sleep(dice.uniform(1, 8))
        print(f"  {release.cycle('harmed').get('status', {}).get('stage')}: {harm.__name__}", flush=True)
        harm(release)
    assert release.wait("harmed", "Promoted")["status"]["candidate"]["sha256"] == expected
    assert went_on_from(release, "harmed") > 0


def went_on_from(release: Release, cycle: str) -> int:
    """The step from which the last pod of rank 0 trained on; 0 where it began from the start."""
    pods = release.pods(f"refrain.dev/cycle={cycle},refrain.dev/stage=train")
    first = [pod for pod in pods if pod["metadata"]["labels"].get(INDEX, "0") == "0"]
    said = kube.kubectl("logs", first[-1]["metadata"]["name"], "--namespace", release.namespace)
    found = re.search(r"goes on from step (\d+) of", said)
    return int(found[1]) if found else 0


def train_pod(release: Release) -> str:
    running = release.running("harmed", "train")
    assert running, "nothing trains any more: LONG is too short for this machine"
    return running[-1]


def evict_train(release: Release) -> None:
    pod = train_pod(release)
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": release.namespace}}
    path = f"/api/v1/namespaces/{release.namespace}/pods/{pod}/eviction"
    kube.kubectl("create", "--raw", path, "--filename=-", stdin=json.dumps(body))


def delete_train(release: Release) -> None:
    kube.kubectl("delete", "pod", train_pod(release), "--namespace", release.namespace, "--wait=false")


def delete_controller(release: Release) -> None:
    label = "app.kubernetes.io/component=controller"
    kube.kubectl("delete", "pod", "--selector", label, "--namespace", release.namespace, "--wait=false")


def restart_store(release: Release) -> None:
    kube.kubectl("delete", "pod", "refrain-store-0", "--namespace", release.namespace)


def restart_api_server(release: Release) -> None:
    """Only where the node is our own, which starts it again at once."""
    if not (folder := os.environ.get("REFRAIN_NODE")):
        print("  this cluster's API server is left alone")
        return
    os.kill(int((Path(folder) / "kube-apiserver.pid").read_text()), signal.SIGKILL)
    time.sleep(2)
    wait_for(lambda: kube.kubectl("get", "--raw", "/readyz", check=False) == "ok", 60, "the API server is back")


KILL = """
import os, signal
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) not in (1, os.getpid()):
        os.kill(int(name), signal.SIGKILL)
"""


@pytest.mark.lengthy
def test_two_ranks_of_which_one_and_then_the_other_is_killed(
    release: Release, undisturbed: Callable[[int], str]
) -> None:
    expected = undisturbed(2)
    release.create("ranks", archive="ranks", **SPEC | {"training": {**LONG, "nodes": 2}})
    seen: set[str] = set()
    for rank in (0, 1):
        pod = wait_for(lambda rank=rank, seen=seen: running_rank(release, rank, seen), 400, f"rank {rank} runs")
        seen.update(one["metadata"]["name"] for one in release.pods("refrain.dev/cycle=ranks,refrain.dev/stage=train"))
        before = release.num_checkpoints("ranks")
        wait_for(lambda before=before: release.num_checkpoints("ranks") > before, 300, "one more checkpoint")
        kube.kubectl("exec", pod, "--namespace", release.namespace, "--", "python", "-c", KILL, check=False)
    status = release.wait("ranks", "Promoted")["status"]
    assert status["candidate"]["sha256"] == expected
    train = next(entry for entry in status["stages"] if entry["name"] == "train")
    assert train["run"] >= 2, train
    assert went_on_from(release, "ranks") > 0


def running_rank(release: Release, rank: int, seen: set[str]) -> str | None:
    """A pod of that rank which runs and was not seen before."""
    pods = release.pods(f"refrain.dev/cycle=ranks,{INDEX}={rank}")
    names = [pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] == "Running"]
    return next((name for name in names if name not in seen), None)
