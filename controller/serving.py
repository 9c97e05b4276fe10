"""`refrain controller`: start, look at what is there and what is allowed, then work until told to stop."""

from __future__ import annotations

import functools
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from controller.objects import GROUP, PLURAL
from jobs.contracts.errors import AccessError, TransientError

if TYPE_CHECKING:
    from controller.api import Api
    from controller.settings import Settings

logger = logging.getLogger("refrain.controller")

RIGHTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (GROUP, PLURAL, ("get", "list", "watch", "delete")),
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

_WAIT_SECONDS = 5


@click.command("controller", short_help="Run the Kubernetes operator.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("/etc/refrain-controller/config.yaml"),
    show_default=True,
    help="Settings (controller/settings.py says which there are).",
)
@click.option("--health-port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Serves /healthz.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=9090, show_default=True, help="Serves /metrics.")
@click.option("--log-format", type=click.Choice(["json", "text"]), default="json", show_default=True)
@click.option("--verbose", is_flag=True, help="Tell each action.")
def command(*, config: Path, health_port: int, metrics_port: int, log_format: str, verbose: bool) -> None:
    """Run the operator: it turns the RetrainCycles of one namespace into Jobs, stage by stage.

    It goes by the pod's service account, or by the current kubeconfig; it holds no credentials of the store.
    """
    import kopf
    from prometheus_client import start_http_server

    from controller.api import connect
    from controller.handlers import registry
    from controller.reconciler import Reconciler
    from controller.settings import load_settings

    kopf.configure(verbose=verbose, log_format=kopf.LogFormat.JSON if log_format == "json" else kopf.LogFormat.FULL)
    for noisy in ("urllib3", "kubernetes"):  # every request, with its body
        logging.getLogger(noisy).setLevel(logging.WARNING)
    settings = load_settings(config)
    api = connect(settings.namespace)
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
    from controller.api import ApiError

    while True:
        try:
            _require_rights(api, settings)
            api.list(PLURAL, limit="1")
        except TransientError as error:
            logger.warning("%s; again in %d s", error, _WAIT_SECONDS)
        except ApiError as error:
            if error.status not in (404, 429, 500, 503, 504):
                raise AccessError(str(error), where=f"namespace {api.namespace}") from error
            what = f"no {PLURAL}.{GROUP} yet: install crds/" if error.status == 404 else str(error)
            logger.warning("%s; again in %d s", what, _WAIT_SECONDS)
        else:
            return
        time.sleep(_WAIT_SECONDS)


def _require_rights(api: Api, settings: Settings) -> None:
    wanted = RIGHTS + (INFERENCE_RIGHTS if settings.inference else ())
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
