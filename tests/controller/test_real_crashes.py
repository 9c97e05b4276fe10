"""Real stages while the controller dies at every write, or the store fails: it holds what it holds undisturbed."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from cluster.api_proxy import api_proxied
from cluster.kubelet import Run
from controller_process import ACCOUNT, Operator, operator
from local.cycles import document, workplace
from local.killing import contents
from servers import proxy as store_proxy
from undead import Reaper, Undead

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.api import Object
    from cluster.control_plane import ControlPlane
    from cluster.kubelet import Kubelet
    from servers.s3 import S3Server

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]
STAGES = ["parse", "split", "window"]


def _cycle(place: Path, store: str) -> Object:
    """A cycle that ends behind its third stage, for want of mail: no model is needed so far."""
    spec: Object = {
        "archive": "workshop",
        "store": {"url": store},
        "sources": [{"mbox": str(place / "mail.mbox")}],
        "model": {"base": str(place / "base")},
        "window": {"minNewMessages": 1000},
    }
    return document("w1", spec)


def _followed(made: Operator, cycle: Object) -> list[tuple[str, Any]]:
    """Each stage with its result, once the cycle has ended."""
    made.control_plane.api.create(cycle, made.namespace)
    status = made.wait("w1", "Skipped", 600)
    return [(entry["name"], entry["result"]) for entry in status["stages"]]


def test_the_controller_is_killed_at_every_write(
    control_plane: ControlPlane,
    kubelet: Kubelet,
    new_namespace: Callable[[], str],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    kubelet.rule = lambda _pod: Run()
    place = workplace(tmp_path / "place")
    undisturbed, disturbed = ((tmp_path / name).as_uri() for name in ("undisturbed", "disturbed"))
    with operator(control_plane, new_namespace(), tmp_path, owner="us") as plain:
        expected = _followed(plain.start(), _cycle(place, undisturbed))
    namespace, reaper = new_namespace(), Reaper()
    with api_proxied(control_plane) as proxy, operator(control_plane, namespace, tmp_path, owner="us"):
        made = Undead(control_plane, namespace, tmp_path, proxy.kubeconfig(namespace, ACCOUNT), {"owner": "us"})
        made.on_start = lambda pid: setattr(proxy, "victim", pid)
        proxy.every_write = reaper
        made.keep()
        try:
            found = _followed(made, _cycle(place, disturbed))
        finally:
            made.kill()
    record_property("told", f"crashes: real stages, {reaper}")
    assert [name for name, _ in found] == STAGES
    assert found == expected
    assert reaper.num_kills > 2 * len(STAGES)
    assert contents(f"{disturbed}/workshop") == contents(f"{undisturbed}/workshop")


def test_the_store_fails_at_every_write(
    control_plane: ControlPlane,
    kubelet: Kubelet,
    new_namespace: Callable[[], str],
    tmp_path: Path,
    moto_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each write of a stage's pod is refused, lost or answered by an error the first time that it is sent."""
    place = workplace(tmp_path / "place")
    kubelet.backdate_seconds = 60
    for name, value in moto_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    first, second = (f"s3://{moto_server.make_bucket()}" for _ in range(2))
    with store_proxy.proxied(moto_server) as proxy:
        kubelet.rule = lambda _pod: Run(env=proxy.server.environment())
        with operator(control_plane, new_namespace(), tmp_path, owner="us") as made:
            expected = _followed(made.start(), _cycle(place, first))
        proxy.every_write = harms = Once(
            store_proxy.answer(500, "InternalError"),
            store_proxy.lose_answer,
            store_proxy.lose_request,
            store_proxy.answer(503, "SlowDown"),
            store_proxy.answer_after_commit(500, "InternalError"),
        )
        with operator(control_plane, new_namespace(), tmp_path, owner="us") as made:
            found = _followed(made.start(), _cycle(place, second))
    assert harms.num_harmed > 2 * len(STAGES)
    assert [name for name, _ in found] == STAGES
    assert found == expected
    assert contents(f"{second}/workshop") == contents(f"{first}/workshop")


class Once:
    """Each write meets one of the harms the first time that it is sent, in turn; the store's probes meet none."""

    def __init__(self, *harms: store_proxy.Harm) -> None:
        self._harms = itertools.cycle(harms)
        self._seen: set[str] = set()
        self._lock = threading.Lock()
        self.num_harmed = 0

    def __call__(self, proxy: store_proxy.FaultProxy, request: store_proxy.Request) -> store_proxy.Answer | None:
        key = f"{request.method} {urlsplit(request.path).path}"
        with self._lock:
            harm = None if key in self._seen or "/probe/" in key else next(self._harms)
            self._seen.add(key)
            self.num_harmed += harm is not None
        return harm(proxy, request) if harm else proxy.forward(request)
