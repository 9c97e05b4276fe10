"""Releases on the control plane."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
import yaml
from helm import CRDS, helm, monitoring_crds
from helm_release import RESTRICTED, Release

if TYPE_CHECKING:
    from cluster.control_plane import ControlPlane


@pytest.fixture(scope="module")
def definitions(control_plane: ControlPlane) -> None:
    """Those of Prometheus' operator, as a cluster has them that wants monitors."""
    control_plane.apply([yaml.safe_load(path.read_text()) for path in monitoring_crds()])


@pytest.fixture
def release(control_plane: ControlPlane, new_namespace: Callable[..., str], definitions: None) -> Iterator[Release]:
    """One that is not yet installed, where pods have to be restricted."""
    control_plane.apply(helm("template", "refrain-crds", CRDS).stdout)
    made = Release(control_plane, new_namespace(**RESTRICTED))
    yield made
    made.helm("uninstall", "refrain", "--ignore-not-found")
