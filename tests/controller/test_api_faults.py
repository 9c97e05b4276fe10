"""What may go wrong between the controller and the cluster: refused and lost requests, lost events, lost nodes."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cluster.api import wait_for
from cluster.api_harms import answer, answer_after_commit, lose_answer, lose_request, time_out, time_out_after_commit
from cluster.api_proxy import ApiAnswer, ApiProxy, ApiRequest, api_proxied
from cluster.kubelet import Play
from controller_process import ACCOUNT, CYCLES, Operator, operator, played, stage_of
from controller_world import WINNER
from inference_pods import Serving, deployment, settings_of

from controller.objects import STAGE
from controller.serving import INFERENCE_RIGHTS, RIGHTS

if TYPE_CHECKING:
    from cluster.control_plane import ControlPlane
    from cluster.kubelet import Kubelet

pytestmark = pytest.mark.cluster
SECONDS = 240


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[ApiProxy]:
    with api_proxied(control_plane) as running:
        yield running


@pytest.fixture
def behind(
    control_plane: ControlPlane, kubelet: Kubelet, proxy: ApiProxy, namespace: str, tmp_path: Path
) -> Iterator[Operator]:
    """A controller that reaches the API server through the proxy alone."""
    kubelet.rule = played
    kubelet.offer_gpus(4)
    with operator(control_plane, namespace, tmp_path, resyncSeconds=5, graceSeconds=2) as made:
        made.kubeconfig = proxy.kubeconfig(namespace, ACCOUNT)
        yield made


class Once:
    """Each write meets one of the harms the first time that it is sent, in turn."""

    def __init__(self, *harms: Any) -> None:
        self._harms = itertools.cycle(harms)
        self._seen: set[str] = set()
        self._lock = threading.Lock()
        self.num_harmed = 0

    def __call__(self, proxy: ApiProxy, request: ApiRequest) -> ApiAnswer | None:
        key = f"{request} {len(request.body)}"
        with self._lock:
            if key in self._seen:
                harm = None
            else:
                self._seen.add(key)
                self.num_harmed += 1
                harm = next(self._harms)
        return harm(proxy, request) if harm else proxy.forward(request)


HARMS = (
    answer(409, "Conflict"),
    answer(429, "TooManyRequests"),
    answer(500, "InternalError"),
    lose_answer,
    lose_request,
    answer_after_commit(500, "InternalError"),
)


def test_every_write_is_refused_or_lost_once(behind: Operator, proxy: ApiProxy, control_plane: ControlPlane) -> None:
    proxy.every_write = harms = Once(*HARMS)
    since = control_plane.mark()
    behind.start().create("w1")
    status = behind.wait("w1", "Promoted", SECONDS)
    assert status["candidate"]["sha256"] == WINNER
    assert harms.num_harmed > 15
    assert len(_created(behind, control_plane, since)) == 10


def _created(made: Operator, control_plane: ControlPlane, since: int) -> list[str]:
    """The Jobs that were created, none of them twice."""
    created = [
        event.name or event.uri
        for event in control_plane.audit(since, user=made.user, namespace=made.namespace, writes=True)
        if (event.verb, event.resource, event.code) == ("create", "jobs", 201)
    ]
    assert len(created) == len(set(created)), created
    return created


@pytest.mark.slow
def test_writes_that_are_never_answered(
    behind: Operator, proxy: ApiProxy, kubelet: Kubelet, control_plane: ControlPlane
) -> None:
    """A Job and a status each of which is carried out, or not; the client gives up after 30 s, and all goes on."""
    silences = {
        ("jobs", "lost-job"): time_out,
        ("jobs", "late-job"): time_out_after_commit,
        ("retraincycles", "lost-status"): time_out,
        ("retraincycles", "late-status"): time_out_after_commit,
    }
    kubelet.rule = lambda pod: Play(hang=True) if stage_of(pod)[0] == "split" else played(pod)
    names = [name for _, name in silences]
    began: dict[str, float] = {}

    def silent(proxy: ApiProxy, request: ApiRequest) -> ApiAnswer | None:
        """At the first write about the stage parse."""
        found = next((key for key in silences if key[0] == request.resource and key[1].encode() in request.body), None)
        if found is None or b'"parse"' not in request.body:
            return proxy.forward(request)
        began[found[1]] = time.monotonic()
        return silences.pop(found)(proxy, request)

    proxy.every_write = silent
    since = control_plane.mark()
    behind.start()
    for name in names:
        behind.create(name, archive=name)
    for name in names:
        behind.wait_stage(name, "split", SECONDS)
        assert time.monotonic() - began[name] > 29, "it was waited for an answer"
    assert not silences
    assert len(_created(behind, control_plane, since)) == 2 * len(names)


def test_a_job_that_is_invalid_fails_the_stage(behind: Operator, proxy: ApiProxy) -> None:
    def refuse(proxy: ApiProxy, request: ApiRequest) -> ApiAnswer | None:
        is_train = request.resource == "jobs" and b'"train"' in request.body
        return answer(422, "Invalid")(proxy, request) if is_train else proxy.forward(request)

    proxy.every_write = refuse
    behind.start().create("w1")
    behind.wait("w1", "Failed", SECONDS)
    assert behind.condition("w1", "Succeeded")[1] == "JobRefused"
    proxy.every_write = None
    behind.annotate("w1", retry="mended")
    behind.wait("w1", "Promoted", SECONDS)


def test_events_that_never_come_are_made_up_for_by_resyncs(behind: Operator, proxy: ApiProxy) -> None:
    proxy.drops = lambda request, _event: True
    behind.start().create("w1")
    behind.wait("w1", "Promoted", SECONDS)


def test_a_deletion_in_the_gap_of_a_410(behind: Operator, proxy: ApiProxy, control_plane: ControlPlane) -> None:
    behind.settings["resyncSeconds"] = 600
    behind.start().create("w1")
    behind.wait("w1", "Promoted", SECONDS)
    proxy.pause()
    assert proxy.cut_watches(gone=True) >= 3
    control_plane.api.delete(CYCLES, "w1", behind.namespace)
    wait_for(lambda: not behind.jobs(), 60, "its Jobs are gone too")
    proxy.resume()
    behind.create("w2")
    behind.wait("w2", "Promoted", SECONDS)


def test_a_pod_deleted_by_hand_is_replaced(behind: Operator, kubelet: Kubelet, control_plane: ControlPlane) -> None:
    pod = _hanging(behind, kubelet)
    kubelet.rule = played
    control_plane.api.delete("v1/Pod", pod, behind.namespace)
    behind.wait("w1", "Promoted", SECONDS)


def test_a_node_that_is_gone(behind: Operator, kubelet: Kubelet) -> None:
    _hanging(behind, kubelet)
    kubelet.node_gone()
    kubelet.rule = played
    kubelet.node_back()
    kubelet.offer_gpus(4)
    behind.wait("w1", "Promoted", SECONDS)


def test_a_stage_that_ignores_sigterm_is_killed(behind: Operator, kubelet: Kubelet) -> None:
    pod = _hanging(behind, kubelet, stop_seconds=3600)
    behind.edit("w1", suspend=True)
    behind.wait("w1", "Suspended", SECONDS)
    kubelet.rule = played
    behind.edit("w1", suspend=False)
    behind.wait("w1", "Promoted", SECONDS)
    assert pod not in {one["metadata"]["name"] for one in behind.pods()}


def test_a_namespace_that_is_being_deleted(behind: Operator, kubelet: Kubelet, control_plane: ControlPlane) -> None:
    _hanging(behind, kubelet)
    control_plane.delete_namespace(behind.namespace)
    wait_for(lambda: control_plane.api.find("v1/Namespace", behind.namespace) is None, 120, "the namespace is gone")
    assert behind.process is not None
    assert behind.process.poll() is None, "the controller lives on, and would be stopped with its own Deployment"
    assert "Traceback" not in behind.said()


def _hanging(made: Operator, kubelet: Kubelet, **play: Any) -> str:
    """A cycle whose sample stage runs until it is told to stop; its pod."""
    kubelet.rule = lambda pod: Play(hang=True, **play) if stage_of(pod)[0] == "sample" else played(pod)
    made.start().create("w1")
    job = made.wait_stage("w1", "sample", SECONDS)

    def running() -> str:
        pods = [pod for pod in made.pods() if pod["metadata"]["name"].startswith(job)]
        assert pods[0]["status"]["phase"] == "Running"
        return str(pods[0]["metadata"]["name"])

    return wait_for(running, 60, "its pod runs")


@pytest.mark.slow
def test_rights_are_just_those_that_are_used(
    control_plane: ControlPlane, kubelet: Kubelet, proxy: ApiProxy, namespace: str, tmp_path: Path
) -> None:
    """A training on two nodes, a suspension, a promotion, an end by ttl, and every answer to a write lost once."""
    serving = Serving()
    kubelet.offer_gpus(4)
    kubelet.rule = lambda pod: serving.play(pod) if pod["metadata"]["labels"].get("app") == "serve" else played(pod)
    control_plane.api.create(deployment(), namespace)
    since = control_plane.mark()
    with operator(control_plane, namespace, tmp_path, inference=settings_of(tmp_path)) as made:
        made.kubeconfig = proxy.kubeconfig(namespace, ACCOUNT)
        proxy.every_write = Once(lose_answer)
        sent = _all_writes(proxy)
        good = kubelet.rule
        kubelet.rule = lambda pod: Play(hang=True) if pod["metadata"]["labels"].get(STAGE) == "sample" else good(pod)
        made.start().create("w1", training={"nodes": 2}, ttlSecondsAfterFinished=20)
        made.wait_stage("w1", "sample", SECONDS)
        made.edit("w1", suspend=True)
        made.wait("w1", "Suspended", SECONDS)
        kubelet.rule = good
        made.edit("w1", suspend=False)
        made.wait("w1", "Promoted", SECONDS)
        wait_for(lambda: control_plane.api.find(CYCLES, "w1", namespace) is None, 90, "its time is up")
        events = control_plane.audit(since, user=made.user, namespace=namespace)
    assert [event for event in events if event.code == 403] == []
    used = {event.right for event in events if event.group != "authorization.k8s.io"}
    given = {(verb, resource, group) for group, resource, verbs in RIGHTS + INFERENCE_RIGHTS for verb in verbs}
    assert used == given
    for request in sent:
        if request.method == "DELETE":
            assert json.loads(request.body)["propagationPolicy"] == "Background", f"{request} leaves pods running"
        else:
            assert request.query["fieldValidation"] == "Strict", f"{request} loses unknown fields silently"
    assert {request.method for request in sent} == {"POST", "PATCH", "DELETE"}


def _all_writes(proxy: ApiProxy) -> list[ApiRequest]:
    """The writes from now on, also those that the proxy does not count."""
    sent: list[ApiRequest] = []
    counts = proxy.counts

    def noted(request: ApiRequest) -> bool:
        sent.append(request)
        return counts(request)

    proxy.counts = noted
    return sent
