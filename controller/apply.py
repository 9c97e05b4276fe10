"""From actions to the API: each can be carried out again without harm."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from controller import inference
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
from controller.api import Api, ApiError
from controller.cycles import Cycle
from controller.objects import (
    ADAPTER,
    ATTEMPT,
    GROUP,
    KIND,
    MANAGER,
    PLURAL,
    PROMOTION,
    PROMOTION_MANAGER,
    RUN,
    SPEC_HASH,
    STAGE,
    TRAIN_JOBS,
    VERSION,
    Json,
    annotations_of,
    is_train_job,
    labels,
    owner_uid,
    uid,
    written,
)
from controller.objects import name as name_of
from controller.observe import Memory
from controller.observed import Refusal, refusal_key
from controller.settings import Settings
from jobs.contracts.cycle.status import CycleStatus
from jobs.contracts.errors import TransientError

logger = logging.getLogger("refrain.controller")


class Applier:
    """Carries out the actions of one plan, in their order."""

    def __init__(self, api: Api, settings: Settings, memory: Memory, count: Callable[[str], object]) -> None:
        self._api = api
        self._settings = settings
        self._memory = memory
        self._count = count
        """Told of each write that is no Event and no progress."""
        self._uids: dict[str, str] = {}
        """Of the Jobs that this plan has created, by name."""

    def apply(self, actions: tuple[Action, ...], cycle: Cycle | None) -> None:
        """Raises ApiError and TransientError; what was done until then stands, and is not done again."""
        for action in actions:
            self._one(action, cycle)

    def _one(self, action: Action, cycle: Cycle | None) -> None:
        match action:
            case CreateJob():
                self._create(_kind_of(action.manifest), action.manifest)
            case CreateService():
                self._create("services", action.manifest)
            case DeleteJob():
                self._count("DeleteJob")
                kind, propagation = (TRAIN_JOBS, "Foreground") if action.is_train_job else ("jobs", "Background")
                self._api.delete(kind, action.name, action.uid, propagation=propagation)
            case DeleteCycle():
                self._count("DeleteCycle")
                self._api.delete(PLURAL, action.name, action.uid)
            case PatchStatus():
                self._patch_status(action)
            case SetAdapter():
                self._set_adapter(action, is_said=cycle is not None)
            case ForgetRefusal():
                self._memory.refusals.pop(action.name, None)
            case Ask() | Swap() | Forget():
                self._talk(action)
            case Emit():
                assert cycle is not None
                self._emit(action, cycle)

    def _talk(self, action: Ask | Swap | Forget) -> None:
        """With the pods of the inference Deployment; what they say is remembered until another promotion begins."""
        said = self._settings.inference
        assert said is not None
        match action:
            case Ask():
                self._memory.answers[uid(action.pod), action.adapter] = inference.ask(action.pod, said, action.seconds)
            case Swap():
                self._memory.swaps[uid(action.pod), action.adapter] = inference.swap(action.pod, action.adapter, said)
            case Forget():
                self._memory.answers.clear()
                self._memory.swaps.clear()
                self._memory.refusals.pop(refusal_key(said.deployment), None)

    def _unless_refused(self, key: str, write: Callable[[], Json], *, is_said: bool = True) -> Json | None:
        """Write, and remember a refusal for the next plan to say. One that this plan says already ends nothing."""
        is_known = is_said and key in self._memory.refusals
        try:
            done = write()
        except ApiError as error:
            if error.status != 403 and not error.is_permanent:
                raise
            self._memory.refusals[key] = Refusal(error.message, error.is_permanent)
            if not is_known:
                raise
            return None
        self._memory.refusals.pop(key, None)
        return done

    def _create(self, kind: str, manifest: Json) -> None:
        created = self._unless_refused(name_of(manifest), lambda: self._created(kind, manifest))
        if created is not None:
            self._uids[name_of(manifest)] = uid(created)

    def _created(self, kind: str, manifest: Json) -> Json:
        """Create an object; one of that name that is there has to be the same stage's of the same cycle."""
        self._count(f"Create {kind}")
        try:
            return self._api.create(kind, manifest)
        except ApiError as error:
            if error.status != 409:
                raise
        there = self._api.get(kind, name_of(manifest))
        if there is None:
            raise ApiError(409, "Conflict", f"{kind}/{name_of(manifest)} was there and is gone", 1)
        is_ours = owner_uid(there) == owner_uid(manifest)
        if not is_ours or any(labels(there).get(key) != labels(manifest).get(key) for key in (STAGE, ATTEMPT, RUN)):
            raise ApiError(422, "Invalid", f"{kind}/{name_of(manifest)} is there already, and is not this cycle's")
        if annotations_of(there).get(SPEC_HASH) != annotations_of(manifest)[SPEC_HASH]:
            logger.info("%s/%s stays as it was created, by other settings", kind, name_of(manifest))
        return there

    def _patch_status(self, action: PatchStatus) -> None:
        status = action.status
        if status.stages and (seen := self._uids.get(status.stages[-1].job)):
            entry = status.stages[-1].model_copy(update={"job_uid": seen})
            status = status.model_copy(update={"stages": [*status.stages[:-1], entry]})
        self._count("PatchStatus")
        self._api.apply(
            PLURAL, action.name, status_document(action, status), manager=MANAGER, subresource="status", force=True
        )

    def _set_adapter(self, action: SetAdapter, *, is_said: bool) -> None:
        """Both annotations in one write, on condition that nobody has changed the Deployment since it was looked at.

        By force, for whoever set the former value owns the field: what is overwritten is what was read.
        """
        assert self._settings.inference is not None
        deployment = self._settings.inference.deployment
        marker = {PROMOTION: json.dumps(action.marker, sort_keys=True)} if action.marker else {}
        body: Json = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": deployment, "annotations": marker},
        }
        if action.resource_version:
            body["metadata"]["resourceVersion"] = action.resource_version
        if action.adapter:
            body["spec"] = {"template": {"metadata": {"annotations": {ADAPTER: action.adapter}}}}
        self._count("SetAdapter")
        self._unless_refused(
            refusal_key(deployment),
            lambda: self._api.apply("deployments", deployment, body, manager=PROMOTION_MANAGER, force=True),
            is_said=is_said,
        )

    def _emit(self, action: Emit, cycle: Cycle) -> None:
        digest = hashlib.sha256(f"{cycle.uid}/{action.name}".encode()).hexdigest()[:16]
        now = written(datetime.now(UTC))
        event: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{cycle.name[:200]}.{digest}", "namespace": cycle.namespace},
            "involvedObject": {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": KIND,
                "name": cycle.name,
                "namespace": cycle.namespace,
                "uid": cycle.uid,
                "resourceVersion": cycle.resource_version,
            },
            "type": "Warning" if action.is_warning else "Normal",
            "reason": action.reason,
            "message": action.message,
            "source": {"component": MANAGER},
            "reportingComponent": MANAGER,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            self._api.create("events", event)
        except (ApiError, TransientError) as error:  # nothing waits for an Event
            if getattr(error, "status", 0) != 409:  # told already
                logger.warning("%s: no Event %s: %s", cycle.name, action.reason, error)


def _kind_of(manifest: Json) -> str:
    return TRAIN_JOBS if is_train_job(manifest) else "jobs"


def status_document(action: PatchStatus, status: CycleStatus) -> Json:
    """What is sent: the whole status, on condition that nobody has written the cycle since it was read."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": {"name": action.name, "resourceVersion": action.resource_version},
        "status": status.model_dump(by_alias=True, mode="json", exclude_none=True, exclude_defaults=False),
    }
