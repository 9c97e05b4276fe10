"""Helm, kubectl and the controller on one Deployment: whoever changes what, the adapter is the one that was meant."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from e2e import kube
from e2e.releases import Release

pytestmark = [pytest.mark.e2e, pytest.mark.lengthy, pytest.mark.timeout(1800)]
SERVE = "jsonpath={.spec.template.spec.containers[0].image} {.spec.template.spec.containers[0].env[*].name}"


def test_the_adapter_outlives_upgrades_rollbacks_and_the_release(new_release: Callable[..., Release]) -> None:
    timer = kube.Timer()
    release = new_release("upgrades", modelCache={"enabled": True})
    release.wait_inference()
    assert release.served() == ""
    timer.lap("installed: the bare base model answers")
    release.create("w1")
    first = release.wait("w1", "Promoted")
    digest = first["status"]["candidate"]["sha256"]
    assert release.served() == digest
    models = cached(release)
    assert len(models) == NUM_MODELS
    timer.lap("first adapter promoted")

    release.upgrade(image={"registry": kube.REGISTRY, "tag": kube.OTHER_TAG}, inference=ANOTHER_ENV)
    release.wait_inference()
    assert deployment(release).startswith(f"{kube.REGISTRY}/refrain-jobs:{kube.OTHER_TAG} ")
    assert "MORE" in deployment(release)
    assert release.served() == digest
    timer.lap("helm upgrade")

    release.helm("rollback", "refrain", "1")
    release.wait_inference()
    assert "MORE" not in deployment(release)
    assert release.served() == digest
    timer.lap("helm rollback")

    release.create("w2", sources=[{"mbox": "s3://refrain/incoming/2.mbox"}])
    second = release.wait("w2", "Promoted")
    newer = second["status"]["candidate"]["sha256"]
    assert newer != digest
    assert cached(release) == models
    assert release.served() == newer
    timer.lap("second adapter promoted")

    kube.kubectl("rollout", "undo", "deployment/refrain-inference", "--namespace", release.namespace)
    release.wait_inference()
    assert release.served() == digest
    release.upgrade(inference=ANOTHER_ENV)
    release.wait_inference()
    assert release.served() == digest
    timer.lap("kubectl rollout undo, and helm upgrade after it")

    release.helm("uninstall", "refrain", "--wait")
    release.install(new=False)
    release.wait_inference()
    assert release.served() == newer
    timer.lap("helm uninstall and install: what is on record answers")

    release.create("w3", sources=[{"mbox": "s3://refrain/incoming/3.mbox"}])
    third = release.wait("w3", "Promoted")
    assert third["status"]["log"]["seq"] > second["status"]["log"]["seq"] > first["status"]["log"]["seq"]
    assert third["status"]["incumbent"]["sha256"] == newer
    assert release.served() == third["status"]["candidate"]["sha256"]
    timer.lap("third adapter promoted, from the same log")


ANOTHER_ENV = {"extraEnv": [{"name": "OMP_NUM_THREADS", "value": "1"}, {"name": "MORE", "value": "1"}]}


def deployment(release: Release) -> str:
    """The image of the inference Deployment and the names of its variables."""
    return kube.kubectl("get", "deployment", "refrain-inference", "--namespace", release.namespace, "--output", SERVE)


NUM_MODELS = 2
"""The base model and the one for embeddings."""
CACHED = """
import os
for folder, _, files in os.walk("/cache"):
    if "config.json" in files and "1_Pooling" not in folder:
        print(folder, os.stat(folder).st_ino)
"""


def cached(release: Release) -> list[str]:
    """The models that all pods share, and which files they are: fetched anew they would be others."""
    where = ("exec", "deployment/refrain-inference", "--namespace", release.namespace, "--container=serve")
    return sorted(kube.kubectl(*where, "--", "python", "-c", CACHED).splitlines())
