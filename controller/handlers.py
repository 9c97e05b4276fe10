"""kopf's part: watches, and says which archive may have changed. It writes nothing, and decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import kopf

from controller.objects import ARCHIVE, GROUP, MANAGED_BY, MANAGER, PLURAL, TRAIN_JOBS, TRAINER_GROUP, VERSION
from controller.reconciler import Reconciler

_STALE_RESYNCS = 3
_CHUNK = 100
"""Objects that are listed at once: a thousand cycles have ten thousand Jobs and as many pods."""


class _Unlimited:
    """Seconds between attempts: more and more up to a limit, and never an end. kopf's own default gives up."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((1, 1, 2, 3, 5, 8, 13), itertools.repeat(15))


class _NoDiffs(kopf.DiffBaseStorage):
    """What kopf remembers of an object to tell what has changed of it: nothing, for no handler here asks.

    Its own would copy every object of every event.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Nothing."""
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> None:
        """Nothing."""

    def store(self, **_: Any) -> None:
        """Nothing is stored."""


def registry(reconciler: Reconciler) -> kopf.OperatorRegistry:
    """The handlers, for one reconciler."""
    handlers = kopf.OperatorRegistry()
    kopf.on.login(registry=handlers)(_login)
    _run_beside(handlers, reconciler)
    _watch(handlers, reconciler)
    if reconciler.settings.train_job is not None:
        _watch_train_jobs(handlers, reconciler)
    if reconciler.settings.inference is not None:
        _watch_inference(handlers, reconciler)
    return handlers


def _login(**arguments: Any) -> kopf.ConnectionInfo | None:
    """As `controller.api.connect` does it: by the pod's service account, or by the kubeconfig where one is named."""
    if os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
        return kopf.login_with_service_account(**arguments)
    return kopf.login_with_kubeconfig(**arguments)


def _run_beside(handlers: kopf.OperatorRegistry, reconciler: Reconciler) -> None:
    """The reconciler works in kopf's event loop, and its age is what liveness goes by."""
    tasks: list[asyncio.Task[None]] = []

    @kopf.on.startup(registry=handlers)
    async def begin(settings: kopf.OperatorSettings, **_: Any) -> None:
        configure(settings)
        tasks.append(asyncio.create_task(reconciler.run()))

    @kopf.on.cleanup(registry=handlers)
    async def end(**_: Any) -> None:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @kopf.on.probe(id="resync_seconds_ago", registry=handlers)
    def resync_is_recent(**_: Any) -> float:
        return age_of(reconciler)


def age_of(reconciler: Reconciler) -> float:
    """Seconds since the last resync; PermanentError, which makes the liveness probe fail, where it is too old."""
    age = time.monotonic() - reconciler.last_resync
    if age > _STALE_RESYNCS * max(reconciler.settings.resync_seconds, 60):
        raise kopf.PermanentError(f"the last resync was {age:.0f} s ago")
    return age


def _watch(handlers: kopf.OperatorRegistry, reconciler: Reconciler) -> None:
    """What is listed when a watch begins has no type: it need not have changed."""
    ours = {MANAGED_BY: MANAGER}

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=handlers)
    async def cycle_may_have_changed(body: Mapping[str, Any], type: str | None, **_: Any) -> None:  # noqa: A002
        reconciler.mark(str((body.get("spec") or {}).get("archive", "")), is_routine=type is None)

    @kopf.on.event("batch", "v1", "jobs", labels=ours, registry=handlers)
    async def job_may_have_changed(labels: Mapping[str, str], type: str | None, **_: Any) -> None:  # noqa: A002
        reconciler.mark(labels.get(ARCHIVE, ""), is_routine=type is None)

    @kopf.on.event("", "v1", "pods", labels=ours, registry=handlers)
    async def pod_may_have_changed(labels: Mapping[str, str], type: str | None, **_: Any) -> None:  # noqa: A002
        reconciler.mark(labels.get(ARCHIVE, ""), is_routine=type is None)


def _watch_train_jobs(handlers: kopf.OperatorRegistry, reconciler: Reconciler) -> None:
    @kopf.on.event(TRAINER_GROUP, "v1alpha1", TRAIN_JOBS, labels={MANAGED_BY: MANAGER}, registry=handlers)
    async def train_job_may_have_changed(labels: Mapping[str, str], type: str | None, **_: Any) -> None:  # noqa: A002
        reconciler.mark(labels.get(ARCHIVE, ""), is_routine=type is None)


def _watch_inference(handlers: kopf.OperatorRegistry, reconciler: Reconciler) -> None:
    @kopf.on.event("apps", "v1", "deployments", registry=handlers)
    async def deployment_may_have_changed(name: str | None, **_: Any) -> None:
        said = reconciler.settings.inference
        if said is not None and name == said.deployment:
            reconciler.mark(said.archive)


def configure(settings: kopf.OperatorSettings) -> None:
    """Kopf as this controller needs it: one namespace, no discovery, no Events of its own, no giving up."""
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.peering.standalone = True
    settings.watching.chunk_size = _CHUNK
    for kind in ("jobs", TRAIN_JOBS, "pods"):
        settings.watching.label_selectors[kind] = f"{MANAGED_BY}={MANAGER}"
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    settings.watching.connect_timeout = 30
    settings.networking.connect_timeout = 30
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = _Unlimited()
