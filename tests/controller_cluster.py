"""What Kubernetes does in a played world, in the fewest words: Jobs and their pods, and an inference Deployment."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from controller.objects import ADAPTER, PROMOTION, written

Json = dict[str, Any]


@dataclass
class Cluster:
    """Jobs and pods by name, and who serves; all as plain dicts."""

    now: datetime
    jobs: dict[str, Json] = field(default_factory=dict)
    pods: dict[str, Json] = field(default_factory=dict)
    deployment: Json | None = None
    inference_pods: list[Json] = field(default_factory=list)
    _annotated_by: str = ""
    """The field manager of the inference Deployment's own annotations."""

    # ---- Jobs

    def add_pod(self, job: str, index: int = 0) -> Json:
        manifest = self.jobs[job]
        name = f"{job}-{len(self.pods)}"
        template = copy.deepcopy(manifest["spec"]["template"])
        pod = {
            "metadata": template["metadata"]
            | {
                "name": name,
                "uid": f"uid-{name}",
                "creationTimestamp": written(self.now),
                "ownerReferences": [{"controller": True, "uid": manifest["metadata"]["uid"]}],
            },
            "spec": template["spec"],
            "status": {"phase": "Running"},
        }
        pod["metadata"]["labels"] |= {"batch.kubernetes.io/job-completion-index": str(index)}
        self.pods[name] = pod
        return pod

    def pods_of(self, job: str) -> list[Json]:
        uid = self.jobs[job]["metadata"]["uid"]
        return [pod for pod in self.pods.values() if pod["metadata"]["ownerReferences"][0]["uid"] == uid]

    def running(self) -> list[str]:
        return [name for name, job in self.jobs.items() if not job["status"]["conditions"]]

    def end_job(self, name: str, message: bytes | None, *, exit_code: int = 0, reason: str = "") -> None:
        for pod in self.pods_of(name):
            state = {"exitCode": exit_code} | ({"message": message.decode()} if message is not None else {})
            pod["status"] = {
                "phase": "Failed" if exit_code else "Succeeded",
                "containerStatuses": [{"state": {"terminated": state}}],
            }
        kind = "Failed" if exit_code else "Complete"
        found = {"type": kind, "status": "True", "reason": reason or "BackoffLimitExceeded", "message": "it is over"}
        self.jobs[name]["status"]["conditions"] = [found]

    def stage_of(self, job: str) -> tuple[str, int]:
        spec = self.jobs[job]["spec"]
        arguments = spec["trainer"]["args"] if "trainer" in spec else spec["template"]["spec"]["containers"][0]["args"]
        if "result" in arguments:
            return arguments[arguments.index("result") + 1], int(arguments[arguments.index("--attempt") + 1])
        return arguments[arguments.index("--only") + 1], int(arguments[arguments.index("--attempt") + 1])

    def remove_job(self, name: str) -> None:
        for pod in self.pods_of(name):
            del self.pods[pod["metadata"]["name"]]
        del self.jobs[name]

    # ---- the inference Deployment

    def roll_out(self, *, ready: bool = True) -> None:
        """The Deployment's pods are those of its newest template now."""
        assert self.deployment is not None
        generation, replicas = self.deployment["metadata"]["generation"], self.deployment["spec"]["replicas"]
        template = copy.deepcopy(self.deployment["spec"]["template"]["metadata"]["annotations"])
        self.inference_pods = [
            {
                "metadata": {"name": f"serve-{generation}-{n}", "uid": f"s{generation}-{n}", "annotations": template},
                "status": {
                    "conditions": [{"type": "Ready", "status": str(ready), "lastTransitionTime": written(self.now)}],
                    "containerStatuses": [{"state": {"running": {}}}],
                },
            }
            for n in range(replicas)
        ]
        self.deployment["status"] = {
            "observedGeneration": generation,
            "replicas": replicas,
            "updatedReplicas": replicas,
            "availableReplicas": replicas if ready else 0,
        }

    def serving(self) -> str:
        assert self.deployment is not None
        return str(self.deployment["spec"]["template"]["metadata"]["annotations"].get(ADAPTER, ""))

    def undo(self, adapter: str, marker: Json | None = None) -> None:
        """As `kubectl rollout undo` does it: the annotations of then come back, also the Deployment's own."""
        assert self.deployment is not None
        self.deployment["spec"]["template"]["metadata"]["annotations"] = {ADAPTER: adapter}
        self.deployment["metadata"]["annotations"] = {PROMOTION: json.dumps(marker)} if marker else {}
        self.deployment["metadata"]["generation"] += 1
        self._annotated_by = "kubectl"
        self._own("kubectl", is_new=True)

    def _own(self, manager: str, *, is_new: bool) -> None:
        """Who has set the annotations; a value of the template that stays as it is has one more who has set it."""
        assert self.deployment is not None
        metadata = self.deployment["metadata"]
        adapter = {"f:spec": {"f:template": {"f:metadata": {"f:annotations": {f"f:{ADAPTER}": {}}}}}}
        marker = {"f:metadata": {"f:annotations": {f"f:{key}": {} for key in metadata["annotations"]}}}
        entries = [] if is_new else metadata.get("managedFields", [])
        before = {one["manager"] for one in entries if one["fieldsV1"] == adapter}
        metadata["managedFields"] = [{"manager": one, "fieldsV1": adapter} for one in {*before, manager}]
        metadata["managedFields"].append({"manager": self._annotated_by, "fieldsV1": marker})
