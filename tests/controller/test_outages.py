"""A controller that comes before its CRD, and one whose API server is away for longer than kopf waits by default."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster.api import wait_for
from cluster.api_harms import lose_request
from cluster.api_proxy import ApiRequest, api_proxied
from cluster.control_plane import ControlPlane
from cluster.kubelet import Play
from controller_process import ACCOUNT, CRD, ROLE, Operator, operator, played, stage_of

if TYPE_CHECKING:
    from cluster.kubelet import Kubelet

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
_KOPFS_PATIENCE_SECONDS = 75


def test_it_waits_for_its_crd(control_plane: ControlPlane, tmp_path: Path) -> None:
    """On a control plane of its own: that of the other tests has the CRD."""
    folder = tmp_path / "plane"
    folder.mkdir()
    plane = ControlPlane(folder)
    try:
        plane.start()
        namespace = plane.new_namespace()
        plane.apply(ROLE.read_text(), namespace)
        made = Operator(plane, namespace, tmp_path, plane.service_account_kubeconfig(namespace, ACCOUNT))
        try:
            made.start()
            wait_for(lambda: "no retraincycles.refrain.dev yet: install crds/" in made.said(), 60, "what it waits for")
            plane.apply(CRD.read_text())
            made.create("w1")
            made.wait("w1", "Running")
            (job,) = wait_for(made.jobs, 30, "its first Job")
            assert job["metadata"]["labels"]["refrain.dev/stage"] == "parse"
        finally:
            made.kill()
    finally:
        plane.stop()


def test_an_outage_that_lasts(control_plane: ControlPlane, kubelet: Kubelet, namespace: str, tmp_path: Path) -> None:
    """A stage ends meanwhile; no resync and no restart is needed to see it."""
    kubelet.rule = lambda pod: Play(hang=True) if stage_of(pod)[0] == "sample" else played(pod)
    kubelet.offer_gpus(4)
    with api_proxied(control_plane) as proxy, operator(control_plane, namespace, tmp_path, resyncSeconds=600) as made:
        made.kubeconfig = proxy.kubeconfig(namespace, ACCOUNT)
        made.start().create("w1")
        job = made.wait_stage("w1", "sample")
        lost: list[ApiRequest] = []

        def lose(_proxy: object, request: ApiRequest) -> None:
            lost.append(request)
            lose_request(proxy, request)

        proxy.counts = lambda _request: True
        proxy.every_read = proxy.every_write = lose
        assert proxy.cut_watches() >= 3
        (pod,) = [pod for pod in made.pods() if pod["metadata"]["name"].startswith(job)]
        kubelet.finish(namespace, pod["metadata"]["name"], message=played(pod).message)
        time.sleep(_KOPFS_PATIENCE_SECONDS + 10)
        assert lost, "it has tried"
        proxy.reset()
        made.wait("w1", "Promoted", 120)
        assert made.process is not None
        assert made.process.poll() is None, "it lives on"
