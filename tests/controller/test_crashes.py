"""Killed before each of its writes is sent and after each is committed, and started again: all ends as undisturbed.

Sieve (OSDI '22) found 46 bugs in ten controllers so. One run dies at all of its writes, each in both ways, one
after the other; the writes are told apart by what they say, so that one which is sent again counts as the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster.api import Object, wait_for
from cluster.api_proxy import ApiProxy, api_proxied
from cluster.kubelet import Play
from controller_process import ACCOUNT, Operator, failing, operator, played, stage_of
from controller_world import KEPT, RESULTS
from inference_pods import Serving, deployment, settings_of
from undead import Reaper, Undead

from jobs.contracts.errors import InputError

if TYPE_CHECKING:
    from cluster.control_plane import ControlPlane
    from cluster.kubelet import Kubelet

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def happy(made: Operator, kubelet: Kubelet) -> None:
    made.create("w1")
    made.wait("w1", "Promoted", 600)


def retried(made: Operator, kubelet: Kubelet) -> None:
    good = kubelet.rule
    kubelet.rule = lambda pod: failing(pod, InputError("cut")) if stage_of(pod)[0] == "sample" else good(pod)
    made.create("w1")
    made.wait("w1", "Failed", 600)
    kubelet.rule = good
    made.annotate("w1", retry="1")
    made.wait("w1", "Promoted", 600)


def suspended(made: Operator, kubelet: Kubelet) -> None:
    good = kubelet.rule
    kubelet.rule = lambda pod: Play(hang=True) if stage_of(pod)[0] == "sample" else good(pod)
    made.create("w1")
    made.wait_stage("w1", "sample", 600)
    made.edit("w1", suspend=True)
    made.wait("w1", "Suspended", 600)
    kubelet.rule = good
    made.edit("w1", suspend=False)
    made.wait("w1", "Promoted", 600)


def rolled_back(made: Operator, kubelet: Kubelet) -> None:
    made.create("w1")
    made.wait("w1", "NotPromoted", 600)


SCENARIOS: dict[str, Callable[[Operator, Kubelet], None]] = {
    "happy": happy,
    "retry": retried,
    "suspend": suspended,
    "promotion": happy,
    "rollback": rolled_back,
}


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[ApiProxy]:
    with api_proxied(control_plane) as running:
        yield running


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_every_write(
    control_plane: ControlPlane,
    kubelet: Kubelet,
    proxy: ApiProxy,
    new_namespace: Callable[[], str],
    tmp_path: Path,
    scenario: str,
    record_property: Callable[[str, object], None],
) -> None:
    undisturbed = _play(control_plane, kubelet, proxy, new_namespace(), tmp_path / "undisturbed", scenario, None)
    num_writes = len(proxy.writes)
    reaper = Reaper()
    disturbed = _play(control_plane, kubelet, proxy, new_namespace(), tmp_path / "disturbed", scenario, reaper)
    record_property("told", f"crashes: {scenario:<9} {num_writes:>3} writes undisturbed; {reaper}")
    assert reaper.num_kills >= 2 * num_writes * 0.8, "hardly any write was harmed"
    assert disturbed == undisturbed


def _play(
    control_plane: ControlPlane,
    kubelet: Kubelet,
    proxy: ApiProxy,
    namespace: str,
    folder: Path,
    scenario: str,
    reaper: Reaper | None,
) -> Object:
    """Everything that is there at the end, but for times and uids."""
    folder.mkdir()
    proxy.reset()
    serving = Serving()
    is_promotion = scenario in ("promotion", "rollback")
    if scenario == "rollback":
        serving.answers_with = lambda adapter: "0" * 64
    withheld = KEPT | {"select": RESULTS["select"]}
    kubelet.offer_gpus(4)

    def rule(pod: Object) -> Play:
        if pod["metadata"]["labels"].get("app") == "serve":
            return serving.play(pod)
        return played(pod, withheld if "--withhold" in pod["spec"]["containers"][0]["args"] else RESULTS)

    kubelet.rule = rule
    settings: Object = {}
    if is_promotion:
        control_plane.api.create(deployment(), namespace)
        settings["inference"] = settings_of(folder)
    since = control_plane.mark()
    with operator(control_plane, namespace, folder, **settings) as plain:
        made = Undead(control_plane, namespace, folder, proxy.kubeconfig(namespace, ACCOUNT), settings)
        made.on_start = lambda pid: setattr(proxy, "victim", pid)
        proxy.every_write = reaper
        made.keep()
        try:
            SCENARIOS[scenario](made, kubelet)
            if is_promotion:
                wait_for(lambda: "refrain.dev/promotion" not in json.dumps(_deployment(made)["metadata"]), 120)
            time.sleep(1)
            return _found(made, since)
        finally:
            made.kill()
            plain.kill()


def _deployment(made: Operator) -> Object:
    found = made.control_plane.api.get("apps/v1/Deployment", "serve", made.namespace)
    return {"metadata": {"annotations": found["metadata"].get("annotations", {})}, "spec": found["spec"]}


def _found(made: Operator, since: int) -> Object:
    status = made.status("w1")
    jobs = [
        event.name or event.uri
        for event in made.control_plane.audit(since, user=made.user, namespace=made.namespace, writes=True)
        if (event.verb, event.resource, event.code) == ("create", "jobs", 201)
    ]
    assert len(jobs) == len(set(jobs)), f"a Job was created twice: {sorted(jobs)}"
    assert all(job["metadata"]["ownerReferences"] for job in made.jobs())
    live = {job["metadata"]["uid"] for job in made.jobs()}
    orphans = [
        pod["metadata"]["name"]
        for pod in made.pods()
        if "refrain.dev/stage" in pod["metadata"]["labels"] and pod["metadata"]["ownerReferences"][0]["uid"] not in live
    ]
    assert orphans == []
    found: Object = {
        "state": status["state"],
        "stages": [(one["name"], one["attempt"], one["state"], one["result"]) for one in status["stages"]],
        "conditions": sorted(
            (one["type"], one["status"], one["reason"], one["message"]) for one in status["conditions"]
        ),
        "candidate": status.get("candidate"),
        "decision": status.get("decision"),
        "phase": (status.get("promotion") or {}).get("phase"),
        "events": sorted((event["reason"], event["count"]) for event in made.events()),
    }
    if "inference" in made.settings:
        found["adapter"] = _deployment(made)["spec"]["template"]["metadata"].get("annotations")
    return found
