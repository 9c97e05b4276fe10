"""A small world for plans: cycles, Jobs and pods as plain dicts, a clock, and what applies a plan's actions to them.

It plays what Kubernetes does in the fewest words. Whether Kubernetes really does so is for the tests on a control
plane; here every branch of a plan is reached in microseconds, also with a crash behind any action.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from controller_cluster import Cluster, Json

from controller.actions import (
    Action,
    Ask,
    CreateJob,
    CreateService,
    DeleteCycle,
    DeleteJob,
    Emit,
    Forget,
    ForgetRefusal,
    PatchStatus,
    SetAdapter,
    Swap,
)
from controller.apply import status_document
from controller.cycles import Cycle, read_cycle
from controller.objects import ADAPTER, PROMOTION, PROMOTION_MANAGER, SPEC_HASH, written
from controller.observed import Answer, Inference, Observed, Refusal, Swapped, refusal_key
from controller.plan import heal, plan
from controller.settings import Settings
from jobs.contracts.cycle.status import Progress
from jobs.contracts.stages import STAGES
from jobs.contracts.termination import encode_error, encode_result

START = datetime(2026, 1, 5, 3, 0, tzinfo=UTC)
WINNER = "a" * 64
ALL = [row.name for row in STAGES]

RESULTS: dict[str, Json] = {
    "parse": {"num_mails": 12, "num_sources": 1},
    "split": {"window_idx": 3, "log": {"seq": 7, "sha256": "0" * 64}},
    "window": {"window_idx": 3, "num_new_train_messages": 40, "skipped": False},
    "rehearse": {"num_chunks": 5},
    "sample": {"num_batches": 9},
    "train": {"best_eval_loss": 1.5},
    "index": {"num_passages": 3},
    "evaluate": {"num_checkpoints": 2},
    "select": {
        "outcome": "Promote",
        "reason": "Better",
        "message": "step_4 is better",
        "delta": 0.1,
        "interval": [0.05, 0.15],
        "candidate": {"adapter": "cycles/w1/train/checkpoints/step_4", "sha256": WINNER, "scores": {"ppl": 3.5}},
        "incumbent": None,
    },
    "promote": {"outcome": "Promoted", "reason": "Better", "message": "step_4 is better", "sha256": WINNER},
}
KEPT = RESULTS | {
    "select": RESULTS["select"] | {"outcome": "KeepIncumbent", "reason": "NotBetter", "candidate": None},
    "promote": {"outcome": "NotPromoted", "reason": "NotBetter", "message": "the incumbent stays"},
}
SKIPPED = RESULTS | {"window": {"window_idx": 3, "num_new_train_messages": 2, "skipped": True}}


def spec_of(**changes: Any) -> Json:
    spec: Json = {
        "archive": "workshop",
        "store": {"url": "s3://refrain"},
        "model": {"base": "org/model"},
        "sources": [{"mbox": "s3://mail/1.mbox"}],
    }
    return spec | changes


@dataclass
class World(Cluster):
    """Everything that a plan sees, and what it did."""

    now: datetime = START
    settings: Settings = field(default_factory=lambda: Settings(namespace="mail"))
    cycles: dict[str, Json] = field(default_factory=dict)
    services: dict[str, Json] = field(default_factory=dict)
    events: dict[str, Emit] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)
    progress: dict[str, Progress] = field(default_factory=dict)
    """By name of a Job: what its pod says of how far it is."""
    refusals: dict[str, Refusal] = field(default_factory=dict)
    denial: str = ""
    """In what words changes of the inference Deployment are refused; empty where they are not."""
    answers: dict[tuple[str, str], Answer] = field(default_factory=dict)
    swaps: dict[tuple[str, str], Swapped] = field(default_factory=dict)
    says: dict[tuple[str, str], Answer] = field(default_factory=dict)
    """By inference pod and expected adapter: what it answers, where that is not what it serves."""
    refuses: dict[tuple[str, str], str] = field(default_factory=dict)
    """By inference pod and adapter: why it does not load it."""
    loaded: dict[str, str] = field(default_factory=dict)
    """By inference pod: the adapter that it answers with, where it was swapped."""
    hangs: set[str] = field(default_factory=set)
    """Inference pods that take a question and never answer."""
    writes: list[str] = field(default_factory=list)
    _version: int = 1

    # ---- what people do

    def add(self, name: str, annotations: Json | None = None, **changes: Any) -> None:
        self._version += 1
        self.cycles[name] = {
            "apiVersion": "refrain.dev/v1alpha1",
            "kind": "RetrainCycle",
            "metadata": {
                "name": name,
                "namespace": "mail",
                "uid": f"uid-{name}",
                "generation": 1,
                "resourceVersion": str(self._version),
                "creationTimestamp": written(self.now),
                "annotations": annotations or {},
            },
            "spec": spec_of(**changes),
        }
        self.now += timedelta(seconds=1)

    def edit(self, name: str, **changes: Any) -> None:
        self.cycles[name]["spec"] |= changes
        self.cycles[name]["metadata"]["generation"] += 1
        self._touch(name)

    def annotate(self, name: str, **annotations: str) -> None:
        self.cycles[name]["metadata"]["annotations"] |= {
            f"refrain.dev/{key}": text for key, text in annotations.items()
        }
        self._touch(name)

    def _touch(self, name: str) -> None:
        self._version += 1
        self.cycles[name]["metadata"]["resourceVersion"] = str(self._version)

    # ---- what the plan sees

    def observed(self) -> Observed:
        cycles = tuple(sorted(map(read_cycle, copy.deepcopy(list(self.cycles.values()))), key=lambda one: one.order))
        inference = None
        if self.deployment is not None:
            is_swapped = self.settings.inference is not None and self.settings.inference.mode == "Swap"
            inference = Inference(
                copy.deepcopy(self.deployment),
                tuple(copy.deepcopy(self.inference_pods)),
                is_swapped,
                dict(self.answers),
                dict(self.swaps),
            )
        return Observed(
            cycles,
            copy.deepcopy(self.jobs),
            tuple(copy.deepcopy(list(self.pods.values()))),
            dict(self.warnings),
            dict(self.progress),
            dict(self.refusals),
            inference,
        )

    def cycle(self, name: str) -> Cycle:
        return read_cycle(copy.deepcopy(self.cycles[name]))

    def status(self, name: str) -> Any:
        return self.cycle(name).status

    def condition(self, name: str, kind: str) -> tuple[str, str, str] | None:
        found = next((one for one in self.status(name).conditions if one.type == kind), None)
        return (found.status, found.reason, found.message) if found else None

    # ---- what is done

    def look(self, die_behind: int | None = None) -> int:
        """One reconciliation of the archive, on one snapshot; how many actions it took. May die behind one of them."""
        observed = self.observed()
        count = 0
        planned = [heal(observed.inference, observed.cycles)]
        planned += [plan(cycle, observed, self.settings, self.now).actions for cycle in observed.cycles]
        for actions in planned:
            for action in actions:
                if isinstance(action, SetAdapter) and self._is_denied(observed):
                    break
                self.apply(action)
                count += 1
                if count == die_behind:
                    return count
        return count

    def _is_denied(self, observed: Observed) -> bool:
        """Whether the API server refuses to change the Deployment, and the plan knew nothing of it, which ends it."""
        key = refusal_key("serve")
        self.refusals.pop(key, None)
        if self.denial:
            self.refusals[key] = Refusal(self.denial, is_permanent=False)
        return bool(self.denial) and key not in observed.refusals

    def settle(self, most: int = 50) -> None:
        """Look until nothing is to be done."""
        for _ in range(most):
            if not self.look():
                return
        raise AssertionError("it does not come to rest")

    def apply(self, action: Action) -> None:
        match action:
            case CreateJob():
                self._create_job(action.manifest)
            case CreateService():
                name = action.manifest["metadata"]["name"]
                there = self.services.setdefault(name, action.manifest)
                assert there == action.manifest, f"{name} was created with another manifest"
            case DeleteJob():
                self.writes.append(f"delete {action.name}")
                self.remove_job(action.name)
            case DeleteCycle():
                del self.cycles[action.name]
            case PatchStatus():
                self._patch(action)
            case SetAdapter():
                self._set_adapter(action)
            case ForgetRefusal():
                self.refusals.pop(action.name, None)
            case Ask() | Swap() | Forget():
                self._talk(action)
            case Emit():
                self.events.setdefault(action.name, action)

    def _talk(self, action: Ask | Swap | Forget) -> None:
        match action:
            case Ask():
                uid = action.pod["metadata"]["uid"]
                template = action.pod["metadata"]["annotations"].get(ADAPTER, "")
                served = self.loaded.get(uid, template)
                answer = self.says.get((uid, action.adapter), Answer(served.rpartition("@")[2], "yes"))
                if uid in self.hangs:
                    self.now += timedelta(seconds=action.seconds)
                    answer = Answer("", "", "read timed out")
                self.answers[uid, action.adapter] = answer
            case Swap():
                uid = action.pod["metadata"]["uid"]
                problem = self.refuses.get((uid, action.adapter), "")
                if not problem:
                    self.loaded[uid] = action.adapter
                self.swaps[uid, action.adapter] = Swapped(problem, is_final="HTTP 4" in problem)
            case Forget():
                self.answers.clear()
                self.swaps.clear()
                self.refusals.pop(refusal_key("serve"), None)

    def _create_job(self, manifest: Json) -> None:
        name = manifest["metadata"]["name"]
        if name in self.refusals:
            return
        if name in self.jobs:
            there, wanted = (one["metadata"]["annotations"][SPEC_HASH] for one in (self.jobs[name], manifest))
            assert there == wanted, f"{name} was created with another manifest"
            return
        assert not self.running(), f"{name} would run beside {self.running()}"
        self.writes.append(f"create {name}")
        job = copy.deepcopy(manifest)
        job["metadata"] |= {"uid": f"uid-{name}-{len(self.writes)}", "creationTimestamp": written(self.now)}
        job["status"] = {"conditions": []}
        self.jobs[name] = job
        if job["kind"] == "Job":
            self.add_pod(name)

    def _patch(self, action: PatchStatus) -> None:
        raw = self.cycles[action.name]
        if raw["metadata"]["resourceVersion"] != action.resource_version:
            return  # stale: the API server refuses it
        status = action.status
        if status.stages and status.stages[-1].job in self.jobs and not status.stages[-1].job_uid:
            seen = self.jobs[status.stages[-1].job]["metadata"]["uid"]
            entry = status.stages[-1].model_copy(update={"job_uid": seen})
            status = status.model_copy(update={"stages": [*status.stages[:-1], entry]})
        raw["status"] = json.loads(json.dumps(status_document(action, status)["status"]))
        self.writes.append(f"status {action.name}")
        self._touch(action.name)

    def _set_adapter(self, action: SetAdapter) -> None:
        assert self.deployment is not None
        if self.denial:
            return
        self.writes.append(f"adapter {action.adapter}")
        metadata = self.deployment["metadata"]
        if self._annotated_by == PROMOTION_MANAGER:  # an apply takes away what its manager has set, and no more
            metadata["annotations"].pop(PROMOTION, None)
        if action.marker:
            metadata["annotations"][PROMOTION] = json.dumps(action.marker, sort_keys=True)
            self._annotated_by = PROMOTION_MANAGER
        template = self.deployment["spec"]["template"]["metadata"]["annotations"]
        before = dict(template)
        template.pop(ADAPTER, None)
        if action.adapter:
            template[ADAPTER] = action.adapter
        if template != before:
            metadata["generation"] += 1
        self._own(PROMOTION_MANAGER, is_new=template != before)

    # ---- what comes of it

    def succeed(self, results: dict[str, Json] = RESULTS) -> str:
        """The one running Job ends well, with its stage's result; the stage."""
        (name,) = self.running()
        stage, attempt = self.stage_of(name)
        self.end_job(name, encode_result(stage, attempt, results[stage]))
        return stage

    def refuse_job(self, words: str, *, is_permanent: bool = False) -> str:
        """The API server refuses the Job of the stage that is to run; its name."""
        (name,) = self.running()
        self.remove_job(name)
        self.cycles["w1"]["status"]["stages"][-1]["jobUid"] = ""
        self.refusals[name] = Refusal(words, is_permanent=is_permanent)
        return name

    def fail(self, error: BaseException, *, reason: str = "PodFailurePolicy") -> None:
        (name,) = self.running()
        stage, attempt = self.stage_of(name)
        self.end_job(name, encode_error(stage, attempt, error), exit_code=getattr(error, "exit_code", 1), reason=reason)

    def run(self, results: dict[str, Json] = RESULTS, until: str | None = None) -> list[str]:
        """Let every stage succeed until nothing runs, or until a stage runs; the stages in the order they ran."""
        ran: list[str] = []
        self.settle()
        while self.running() and self.stage_of(self.running()[0])[0] != until:
            ran.append(self.succeed(results))
            self.now += timedelta(seconds=10)
            self.settle()
        return ran

    def deploy(self, mode: str = "Rollout", replicas: int = 2, former: str = "") -> None:
        """An inference Deployment that serves the former adapter."""
        self.settings = self.settings.model_copy(
            update={
                "inference": Settings.model_validate(
                    {"namespace": "mail", "inference": {"deployment": "serve", "archive": "workshop", "mode": mode}}
                ).inference
            }
        )
        self.deployment = {
            "metadata": {"name": "serve", "generation": 1, "annotations": {}},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": "serve"}},
                "template": {"metadata": {"annotations": {ADAPTER: former} if former else {}}},
            },
        }
        self.roll_out()
