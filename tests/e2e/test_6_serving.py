"""Promotions under load, by the schedule too; and adapters that do not serve, of which nobody sees anything."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import pytest
from cluster.api import Object, wait_for

from e2e import kube
from e2e.releases import OVER, Release, cycle

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
ASKS = """
import json, os, time, urllib.request
headers = {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ["KEY"]}
body = {"model": "refrain", "max_tokens": 2, "messages": [{"role": "user", "content": "Which disk?"}]}
url = "http://refrain-inference/v1/chat/completions"
while True:
    began = time.monotonic()
    try:
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            said = json.load(answer)["refrain"]
            print("answer" if said["sources"] else "unfounded", said["adapter"] or "base", flush=True)
    except Exception as error:
        print("failed", repr(error).replace(" ", "_"), flush=True)
    time.sleep(max(0, 0.2 - (time.monotonic() - began)))
"""
MANUAL = {"mode": "Manual", "timeoutSeconds": 60, "gate": {"confidence": 0.5, "minThreads": 2}}


@contextmanager
def client(release: Release) -> Iterator[Callable[[], list[str]]]:
    """A pod that asks five times a second through the Service; what it has seen so far, a word a request."""
    container: Object = {
        "name": "asks",
        "image": f"{kube.REGISTRY}/refrain-controller:0.1.0",
        "command": ["python", "-c", ASKS],
        "env": [{"name": "KEY", "value": release.key}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"containers": [container], "securityContext": security, "terminationGracePeriodSeconds": 0}
    kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asks"}, "spec": spec}, release.namespace)

    def seen() -> list[str]:
        said = kube.kubectl("logs", "asks", "--namespace", release.namespace, check=False)
        return [line.partition(" ")[2] if line.startswith("answer") else line for line in said.splitlines()]

    wait_for(lambda: len(seen()) > 3, 120, "the client is answered")
    yield seen
    kube.kubectl("delete", "pod", "asks", "--namespace", release.namespace, "--wait")


@pytest.fixture(scope="module")
def release(new_release: Callable[..., Release]) -> Release:
    """The first adapter is in service."""
    spec = {name: value for name, value in cycle("any")["spec"].items() if name not in ("archive", "store", "sources")}
    schedule = {"cron": "* * * * *", "suspend": True, "spec": spec, "sources": [{"mbox": "s3://refrain/new/"}]}
    made = new_release("serving", schedule=schedule, inference={"minReadySeconds": 30})
    made.create("first")
    made.wait("first", "Promoted")
    return made


def test_the_schedule_promotes_while_a_client_asks(release: Release, small: Path) -> None:
    """Cycles of each minute wait for each other; the client goes from the old adapter to the new, and sees no error."""
    old = release.served()
    release.upload((small / "2.mbox", "s3://refrain/new/2.mbox"))
    with client(release) as seen:
        suspend(release, is_suspended=False)
        queued = wait_for(lambda: in_state(release, "Queued"), 400, "a second cycle waits for the first")
        suspend(release, is_suspended=True)
        wait_for(lambda: all_over(release), 900, "all cycles are over")
        time.sleep(15)
        words = seen()
    assert queued
    promoted = [one for one in kube.items("retraincycles", release.namespace) if state_of(one) == "Promoted"]
    new = promoted[-1]["status"]["candidate"]["sha256"]
    # For seconds both pods are ready; the Service's session affinity keeps a client with the old one until it goes.
    assert runs_of(words) == [old, new]
    assert len(words) > 50
    running = [one["status"]["startedAt"] for one in kube.items("retraincycles", release.namespace)]
    assert running == sorted(running)


def runs_of(words: list[str]) -> list[str]:
    """Each word once as long as it is said without a break."""
    return [word for word, _ in groupby(words)]


def approve(release: Release, name: str) -> None:
    """By hand, as `refrain cycle approve` does."""
    candidate = release.wait(name, "AwaitingApproval")["status"]["candidate"]["sha256"]
    kube.kubectl(
        *("patch", "retraincycle", name, "--namespace", release.namespace, "--type=merge"),
        f"--patch={json.dumps({'spec': {'promotion': {**MANUAL, 'approve': candidate}}})}",
    )


def suspend(release: Release, *, is_suspended: bool) -> None:
    patch = json.dumps({"spec": {"suspend": is_suspended}})
    kube.kubectl(
        *("patch", "cronjob", "refrain-schedule", "--namespace", release.namespace),
        *("--type=merge", f"--patch={patch}"),
    )


def state_of(one: Object) -> str:
    return str(one.get("status", {}).get("state"))


def in_state(release: Release, state: str) -> list[str]:
    found = kube.items("retraincycles", release.namespace)
    return [one["metadata"]["name"] for one in found if state_of(one) == state]


def all_over(release: Release) -> bool:
    return all(state_of(one) in OVER for one in kube.items("retraincycles", release.namespace))


def test_an_adapter_that_does_not_get_ready_is_taken_back(release: Release) -> None:
    """Its file is damaged while the candidate waits for approval."""
    release.create("damaged", sources=[{"mbox": "s3://refrain/incoming/3.mbox"}], promotion=MANUAL)
    candidate = release.wait("damaged", "AwaitingApproval")["status"]["candidate"]
    release.put(f"mail/{candidate['adapter']}/adapter_model.safetensors", b"not an adapter")
    old = release.served()
    with client(release) as seen:
        approve(release, "damaged")
        ended = release.wait("damaged", "NotPromoted")
        words = seen()
    assert kube.condition(ended, "Promoted")["reason"] == "NotReady"
    assert set(words) == {old}
    release.wait_inference()
    assert release.served() == old


def test_an_adapter_that_is_ready_but_fails_the_question_is_taken_back(release: Release) -> None:
    """The controller's question is longer than what the model reads, which the pods' own is not.

    The client meets such a pod never: the former one is there until the controller has asked.
    """
    settings = kube.get("configmap", "refrain-controller", release.namespace)["data"]
    (name,) = settings
    long = settings[name].replace("Who are you, and what are you working on?", "Why? " * 20_000)
    assert long != settings[name]
    put_settings(release, {name: long})
    promotion = {"gate": MANUAL["gate"]}
    old = release.served()
    try:
        with client(release) as seen:
            release.create("unanswered", sources=[{"mbox": "s3://refrain/incoming/4.mbox"}], promotion=promotion)
            ended = release.wait("unanswered", "NotPromoted")
            release.wait_inference()
            time.sleep(15)
            words = seen()
    finally:
        put_settings(release, settings)
    assert kube.condition(ended, "Promoted")["reason"] == "NoAnswer"
    assert set(words) == {old}
    assert release.served() == old


def put_settings(release: Release, data: dict[str, str]) -> None:
    """As the controller reads them, from its start on."""
    patch = json.dumps({"data": data})
    where = ("--namespace", release.namespace)
    kube.kubectl(
        "patch", "configmap", "refrain-controller", *where, "--type=merge", "--patch-file=/dev/stdin", stdin=patch
    )
    kube.kubectl("rollout", "restart", "deployment/refrain-controller", *where)
    kube.kubectl("rollout", "status", "deployment/refrain-controller", *where, "--timeout=2m")


def test_an_approved_adapter_is_swapped_in_while_a_client_asks(new_release: Callable[..., Release]) -> None:
    """Where GPUs are scarce, the pod that serves takes it, and stays. Clients have to send a key."""
    inference = {"mode": "Swap", "apiKeys": {"existingSecret": "keys"}}
    release = new_release("swapping", inference=inference, schedule={"enabled": False})
    release.key = "what-clients-know"
    kube.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"keys": release.key}},
        release.namespace,
    )
    release.create("first")
    old = release.wait("first", "Promoted")["status"]["candidate"]["sha256"]
    release.create("second", sources=[{"mbox": "s3://refrain/incoming/2.mbox"}], promotion=MANUAL)
    release.wait("second", "AwaitingApproval")
    before = serving_pods(release)
    with client(release) as seen:
        approve(release, "second")
        new = release.wait("second", "Promoted")["status"]["candidate"]["sha256"]
        time.sleep(5)
        words = seen()
    assert runs_of(words) == [old, new]
    assert serving_pods(release) == before
    kube.kubectl("delete", "pod", *before, "--namespace", release.namespace)
    release.wait_inference()
    assert release.served() == new


def serving_pods(release: Release) -> list[str]:
    return [pod["metadata"]["name"] for pod in release.pods("app.kubernetes.io/component=inference")]
