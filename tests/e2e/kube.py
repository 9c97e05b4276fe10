"""The cluster that KUBECONFIG names, through kubectl and helm, as a person has it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import programs

if TYPE_CHECKING:
    from cluster.api import Object

ROOT = Path(__file__).parents[2]
REGISTRY = os.environ.get("REGISTRY", "localhost")
"""Where the cluster finds our images; on the project's own node they are there already."""

OTHER_TAG = "0.1.0-again"
"""The same images under another tag, to have something to upgrade to."""


def kubectl(*arguments: object, stdin: str | None = None, check: bool = True) -> str:
    """What kubectl says; what it complains of is in the AssertionError."""
    return _said([programs.binary("kubectl"), *arguments], stdin=stdin, check=check)


def helm(*arguments: object) -> str:
    return _said([programs.binary("helm"), *arguments])


def refused(*arguments: object, stdin: str | None = None) -> str:
    """Why kubectl failed; AssertionError where it did not."""
    command = [str(programs.binary("kubectl")), *map(str, arguments)]
    done = subprocess.run(command, input=stdin, check=False, capture_output=True, text=True)
    assert done.returncode, f"{arguments} was allowed: {done.stdout}"
    return done.stderr


def _said(command: list[object], *, stdin: str | None = None, check: bool = True) -> str:
    texts = list(map(str, command))
    done = subprocess.run(texts, input=stdin, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 or not check, f"{' '.join(texts)}: {done.stdout[-500:]} {done.stderr[-3000:]}"
    return done.stdout


def get(kind: str, name: str, namespace: str) -> Object:
    """An object, by kubectl's name of its kind; AssertionError where there is none."""
    return json.loads(kubectl("get", kind, name, "--namespace", namespace, "--output=json"))  # type: ignore[no-any-return]


def items(kind: str, namespace: str, labels: str = "") -> list[Object]:
    """All of a kind, oldest first."""
    selector = [f"--selector={labels}"] if labels else []
    found = json.loads(kubectl("get", kind, "--namespace", namespace, *selector, "--output=json"))["items"]
    return sorted(found, key=lambda one: str(one["metadata"]["creationTimestamp"]))


def apply(document: Object, namespace: str) -> None:
    kubectl("apply", "--namespace", namespace, "--filename=-", stdin=json.dumps(document))


@contextlib.contextmanager
def forwarded(service: str, port: int, namespace: str) -> Iterator[str]:
    """A Service's address on this machine."""
    command = [programs.binary("kubectl"), "port-forward", f"--namespace={namespace}", f"service/{service}", f":{port}"]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            found = re.search(r"127\.0\.0\.1:(\d+)", said)
            assert found, f"port-forward to {service} said {said!r}"
            yield f"http://127.0.0.1:{found[1]}"
        finally:
            process.kill()


def state_of_things(namespace: str) -> str:
    """For who has to find out why a test failed: pods, cycles, Events, and what pods said last."""
    parts = [kubectl("get", "pods,jobs,retraincycles", "--namespace", namespace, "--output=wide", check=False)]
    parts.append(kubectl("get", "events", "--namespace", namespace, "--sort-by=.lastTimestamp", check=False)[-5000:])
    for pod in items("pods", namespace)[-8:]:
        name = pod["metadata"]["name"]
        parts.append(f"--- {name}\n{kubectl('logs', name, '--namespace', namespace, '--tail=25', check=False)}")
    return "\n".join(parts)


class Timer:
    """How long the parts of a test took; printed, for the report of `make e2e`."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def lap(self, what: str) -> None:
        now = time.monotonic()
        print(f"  {now - self._began:6.1f} s  {what}", flush=True)
        self._began = now


def condition(cycle: Object, kind: str) -> dict[str, Any]:
    """A condition of a cycle; empty where it is not there."""
    found = cycle.get("status", {}).get("conditions", [])
    return next((one for one in found if one["type"] == kind), {})
