"""A controller on a real control plane, and what its pods do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from controller_process import Operator, operator, played

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
