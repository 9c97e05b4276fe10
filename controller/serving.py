"""Behind `refrain controller`: start, look at what is there and what is allowed, then work until told to stop."""

from __future__ import annotations

import functools
import logging
import time
from pathlib import Path

import kopf
from prometheus_client import start_http_server

from controller.api import Api, ApiError, connect
from controller.handlers import registry
from controller.objects import GROUP, PLURAL, TRAIN_JOBS, TRAINER_GROUP
from controller.reconciler import Reconciler
from controller.settings import Settings, load_settings
from controller.waiting import answering
from jobs.contracts.errors import AccessError, TransientError

logger = logging.getLogger("refrain.controller")

RIGHTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (GROUP, PLURAL, ("list", "watch", "delete")),
    (GROUP, f"{PLURAL}/status", ("patch",)),
    ("batch", "jobs", ("get", "list", "watch", "create", "delete")),
    ("", "pods", ("list", "watch")),
    ("", "events", ("list", "create")),
    ("", "services", ("get", "create")),
)
"""What the controller needs in its namespace: group, resource, verbs. The chart's Role is made of it."""

INFERENCE_RIGHTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("apps", "deployments", ("get", "list", "watch", "patch")),
)
"""What it needs besides, where it brings an inference Deployment to each promoted adapter."""

TRAIN_JOB_RIGHTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (TRAINER_GROUP, TRAIN_JOBS, ("get", "list", "watch", "create", "delete")),
)
"""What it needs besides, where training is handed over to Kubeflow Trainer."""

_WAIT_SECONDS = 5


def serve(config: Path, *, health_port: int, metrics_port: int, as_json: bool, verbose: bool) -> None:
    """Work until told to stop. Raises ConfigError, MissingInputError and AccessError."""
    kopf.configure(verbose=verbose, log_format=kopf.LogFormat.JSON if as_json else kopf.LogFormat.FULL)
    for noisy in ("urllib3", "kubernetes", "kopf.objects"):  # every request, with its body; every event
        logging.getLogger(noisy).setLevel(logging.WARNING)
    settings = load_settings(config)
    api = connect(settings.namespace)
    with answering(health_port):
        _wait_until_ready(api, settings)
    start_http_server(metrics_port)
    reconciler = Reconciler(api, functools.partial(load_settings, config), settings)
    kopf.run(
        registry=registry(reconciler),
        standalone=True,
        namespaces=[settings.namespace],
        liveness_endpoint=f"http://0.0.0.0:{health_port}/healthz",
    )


def _wait_until_ready(api: Api, settings: Settings) -> None:
    """Wait for the API server and for the CRD; AccessError where a right is missing."""
    while True:
        try:
            _require_rights(api, settings)
            for kind in (PLURAL, *([TRAIN_JOBS] if settings.train_job else [])):
                _require_kind(api, kind)
        except TransientError as error:
            logger.warning("%s; again in %d s", error, _WAIT_SECONDS)
        except ApiError as error:
            if error.status not in (429, 500, 503, 504):
                raise AccessError(str(error), where=f"namespace {api.namespace}") from error
            logger.warning("%s; again in %d s", error, _WAIT_SECONDS)
        else:
            return
        time.sleep(_WAIT_SECONDS)


_MISSING = {
    PLURAL: f"no {PLURAL}.{GROUP} yet: install crds/",
    TRAIN_JOBS: f"no {TRAIN_JOBS}.{TRAINER_GROUP}: install Kubeflow Trainer, or take trainJob out of the settings",
}


def _require_kind(api: Api, kind: str) -> None:
    """TransientError where the API server does not know it."""
    try:
        api.list(kind, limit="1")
    except ApiError as error:
        if error.status != 404:
            raise
        raise TransientError(_MISSING[kind]) from error


def _require_rights(api: Api, settings: Settings) -> None:
    wanted = RIGHTS + (INFERENCE_RIGHTS if settings.inference else ())
    wanted += TRAIN_JOB_RIGHTS if settings.train_job else ()
    missing = [
        f"{verb} {resource}{f'.{group}' if group else ''}"
        for group, resource, verbs in wanted
        for verb in verbs
        if not api.may(verb, group, resource)
    ]
    if missing:
        raise AccessError(
            f"this service account may not {', '.join(missing)}",
            where=f"namespace {api.namespace}",
            hint="give it the chart's Role",
        )
