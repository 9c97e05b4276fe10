"""Fixtures of the tests on a whole cluster. `make e2e` starts one; KUBECONFIG names another."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from components import require
from local.cycles import WEEKS, write_mbox
from local.models import write_models

from e2e import kube
from e2e.releases import Release


@pytest.fixture(scope="session", autouse=True)
def cluster() -> str:
    """Whose it is. Nothing of ours is on it until the quick start has installed it."""
    require(os.environ.get("KUBECONFIG"), "no cluster: `make e2e` starts one, or KUBECONFIG names one")
    return os.environ["KUBECONFIG"]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny models, and four weeks of small mail as 1.mbox to 4.mbox."""
    place = write_models(tmp_path_factory.mktemp("small"))
    for number, week in enumerate(WEEKS, 1):
        write_mbox(place / f"{number}.mbox", weeks=(week,), num_mails=60)
    return place


@pytest.fixture(scope="module")
def new_release(small: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Release]]:
    """Installs releases, with small mail and models in their stores; their namespaces go with the module."""
    made: list[Release] = []

    def install(namespace: str, **values: object) -> Release:
        release = Release(namespace, dict(values))
        made.append(release)
        release.install()
        mail = [(small / f"{number}.mbox", f"s3://refrain/incoming/{number}.mbox") for number in range(1, 5)]
        release.upload(*((small / name, f"s3://refrain/models/{name}") for name in ("base", "embedder")), *mail)
        return release

    yield install
    for release in made:
        kube.kubectl("delete", "namespace", release.namespace, "--wait=false")
