"""What goes on around a controller that is measured: Jobs that end when they are told to, and the audit log."""

from __future__ import annotations

import math
import re
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]


@dataclass
class Player:
    """Takes the place of the Job controller and of the nodes: each Job has a pod that runs until it is told to end."""

    api: Any
    namespace: str
    running: dict[str, list[tuple[Json, Json]]] = field(default_factory=lambda: defaultdict(list))
    """Jobs with their pods, by cycle; the newest last."""
    num_started: int = 0
    errors: list[BaseException] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(8))

    def follow(self, watch: Any) -> None:
        """Start what comes, until the watch is stopped."""
        seen = set()
        for _, job in watch:
            if (uid := job["metadata"]["uid"]) not in seen:
                seen.add(uid)
                self._pool.submit(self._safely, self._start, job)

    def end(self, cycle: str) -> None:
        """The cycle's stage ends well, in a thread."""
        self._pool.submit(self._safely, self._end, *self.running[cycle].pop())

    def _safely(self, act: Callable[..., None], *arguments: Any) -> None:
        try:
            act(*arguments)
        except BaseException as error:
            self.errors.append(error)
            raise

    def _start(self, job: Json) -> None:
        metadata, template = job["metadata"], job["spec"]["template"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
        labels = template["metadata"]["labels"] | {"batch.kubernetes.io/job-completion-index": "0"}
        made = self.api.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": template["metadata"]
                | {"name": f"{metadata['name']}-0", "labels": labels}
                | {"ownerReferences": [owner | {"controller": True}]},
                "spec": template["spec"] | {"nodeName": "played"},
            },
            self.namespace,
        )
        self._status("batch/v1/Job", job, {"active": 1, "ready": 1, "startTime": _now()})
        self._status("v1/Pod", made, {"phase": "Running", "containerStatuses": [_container({"running": {}})]})
        with self._lock:
            self.running[metadata["labels"]["refrain.dev/cycle"]].append((job, made))
            self.num_started += 1

    def _end(self, job: Json, pod: Json) -> None:
        """First the pod tells its result, then the Job is complete."""
        from controller_process import RESULTS, stage_of

        from jobs.contracts.termination import encode_result

        stage, attempt = stage_of(pod)
        told = {"exitCode": 0, "reason": "Completed", "message": encode_result(stage, attempt, RESULTS[stage]).decode()}
        self._status("v1/Pod", pod, {"phase": "Succeeded", "containerStatuses": [_container({"terminated": told})]})
        num = job["spec"]["completions"]
        now = {"lastProbeTime": _now(), "lastTransitionTime": _now(), "status": "True", "reason": "CompletionsReached"}
        status = {
            "active": 0,
            "ready": 0,
            "succeeded": num,
            "completionTime": _now(),
            "conditions": [now | {"type": kind} for kind in ("SuccessCriteriaMet", "Complete")],
        }
        if job["spec"].get("completionMode") == "Indexed":
            status["completedIndexes"] = f"0-{num - 1}"
        self._status("batch/v1/Job", job, status)

    def _status(self, kind: str, thing: Json, status: Json) -> None:
        self.api.patch(kind, thing["metadata"]["name"], self.namespace, {"status": status}, subresource="status")


def _container(state: Json) -> Json:
    return {"name": "stage", "image": "", "imageID": "", "ready": False, "restartCount": 0, "state": state}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Stages:
    """What the audit log tells of the walkers' stages, request by request."""

    user: str
    """The controller's."""
    num_jobs: int = 0
    num_writes: int = 0
    gaps: list[float] = field(default_factory=list)
    """Seconds from a Job's completion to the moment when the next one was asked for."""
    own: list[float] = field(default_factory=list)
    """Of those, without the time that the API server took to answer what was asked in between."""
    _ended: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By cycle: when its newest Job was completed, and the time of answers since then."""

    def note(self, event: Json) -> None:
        """One request, in the order in which they were answered."""
        what = event.get("objectRef") or {}
        kind, part = what.get("resource"), what.get("subresource")
        begin, end = (_seconds(event[f"{moment}Timestamp"]) for moment in ("requestReceived", "stage"))
        found = re.search(r"walks-\d+", f"{event['requestURI']} {what.get('name')}")
        cycle = found[0] if found else ""
        if event["user"]["username"] != self.user:
            if cycle and (kind, part) == ("jobs", "status"):
                self._ended[cycle] = end, 0.0
            return
        if event["verb"] not in ("list", "watch", "get") and kind != "events" and (cycle or kind == "services"):
            self.num_writes += 1
        if (event["verb"], kind) == ("create", "jobs") and cycle:
            self.num_jobs += 1
            if cycle in self._ended:
                since, answers = self._ended.pop(cycle)
                self.gaps.append(begin - since)
                self.own.append(begin - since - answers)
        elif cycle in self._ended:
            since, answers = self._ended[cycle]
            self._ended[cycle] = since, answers + end - max(begin, since)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def quantile(values: list[float], share: float) -> float:
    """The least value that so many of them do not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]
