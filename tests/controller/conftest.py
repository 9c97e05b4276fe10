"""A controller in the played world, and on a real control plane."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from controller_commands import Commands, running
from controller_process import Operator, operator, played
from controller_world import World

if TYPE_CHECKING:
    from cluster.control_plane import ControlPlane
    from cluster.kubelet import Kubelet

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture
def one(
    control_plane: ControlPlane, kubelet: Kubelet, new_namespace: Callable[..., str], tmp_path: Path
) -> Iterator[Operator]:
    """A controller in a namespace that takes pods of the strictest kind alone."""
    kubelet.rule = played
    kubelet.offer_gpus(4)
    with operator(control_plane, new_namespace(**RESTRICTED), tmp_path) as made:
        yield made.start()


@pytest.fixture
def world() -> World:
    """Kubernetes as it is played to the planner, with nothing in it."""
    return World()


@pytest.fixture(scope="module")
def cli(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """`refrain cycle` beside a real controller, in a namespace of the file's own."""
    with running(control_plane, tmp_path_factory) as made:
        yield made
