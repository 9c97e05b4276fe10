"""GPUs: a stage that needs one waits in the scheduler's words, and runs on a node that has it; the others never ask."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cluster.api import wait_for
from components import require

from e2e import kube
from e2e.releases import Release

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
GPU = "nvidia.com/gpu"


@pytest.fixture
def node() -> str:
    """The only node, which has no GPU."""
    nodes = kube.kubectl("get", "nodes", "--output=name").split()
    require(len(nodes) == 1, "no cluster of a single node, whose GPUs may be made up")
    name = nodes[0].partition("/")[2]
    require(GPU not in capacity(name), "no node without a GPU")
    return name


def capacity(node: str) -> str:
    return kube.kubectl("get", "node", node, "--output=jsonpath={.status.capacity}")


def offer(node: str, operation: str, number: int = 2) -> None:
    """Let the node say that it has GPUs, which proves scheduling and not CUDA; or that it has none."""
    path = f"/status/capacity/{GPU.replace('/', '~1')}"
    patch = f'[{{"op": "{operation}", "path": "{path}", "value": "{number}"}}]'
    kube.kubectl("patch", "node", node, "--subresource=status", "--type=json", f"--patch={patch}")


def test_train_waits_for_a_gpu_and_light_stages_never_ask_for_one(
    new_release: Callable[..., Release], node: str
) -> None:
    release = new_release("gpu", gpu={"resource": GPU}, inference={"enabled": False}, schedule={"enabled": False})
    release.create("w1", evaluation={"embeddingModel": "s3://refrain/models/embedder", "maxQueries": 0})

    def waits() -> str:
        said = kube.condition(release.cycle("w1"), "Progressing")
        assert said.get("reason") == "Unschedulable", said
        return str(said["message"])

    assert f"Insufficient {GPU}" in wait_for(waits, 300)
    offer(node, "add")
    try:
        release.wait("w1", "Promoted")
    finally:
        offer(node, "remove")
    asked = {
        pod["metadata"]["labels"]["refrain.dev/stage"]
        for pod in release.pods("refrain.dev/cycle=w1")
        if GPU in pod["spec"]["containers"][0]["resources"]["limits"]
    }
    assert asked == {"train", "evaluate"}
