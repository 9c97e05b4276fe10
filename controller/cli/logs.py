"""`refrain cycle logs`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from controller.cli.place import NAME, Place, with_place
from jobs.contracts.errors import MissingInputError, TransientError
from jobs.contracts.records import Json
from jobs.contracts.stages import STAGES

if TYPE_CHECKING:
    from controller.cli.cluster import Cluster
    from controller.cycles import Cycle

_CONTAINER = "stage"
_SECONDS = 2.0
"""Between two looks at a pod that has not started."""


@click.command()
@NAME
@click.argument(
    "stage", type=click.Choice([*(row.name for row in STAGES), "result"]), metavar="[STAGE]", required=False
)
@click.option("-f", "--follow", is_flag=True, help="Print what comes, until the pod ends.")
@click.option("--previous", is_flag=True, help="Of the pod before the newest: that of the run before.")
@with_place
def logs(*, place: Place, name: str, stage: str | None, follow: bool, previous: bool) -> None:
    """Print what the newest pod of a stage says.

    Without STAGE it is the stage that began last. Of a training on several nodes it is the first one's. STAGE
    `result` stands for the pods that ask the store for a stage's result.
    """
    with place.cluster() as cluster:
        cycle = cluster.cycle(name)
        stage = stage or _stage_of(cycle)
        pod = _pod(cluster, cycle, stage, previous=previous)
        if follow:
            pod = _started(cluster, pod)
            for part in cluster.follow(pod, container=_CONTAINER):
                sys.stdout.buffer.write(part)
                sys.stdout.buffer.flush()
        else:
            sys.stdout.buffer.write(_logs(cluster, pod))


def _stage_of(cycle: Cycle) -> str:
    if cycle.entry is None:
        raise MissingInputError(f"{cycle.name} is {cycle.status.state}: no stage has begun")
    return cycle.entry.name


def _pod(cluster: Cluster, cycle: Cycle, stage: str, *, previous: bool) -> str:
    """Name of the newest pod of a stage, or of the one before it. MissingInputError."""
    from controller.objects import CYCLE, STAGE

    pods = in_order(cluster.list("pods", labelSelector=f"{CYCLE}={cycle.name},{STAGE}={stage}"))
    if len(pods) < 1 + previous:
        is_left = "pod before it" if pods else "pod"
        hint = f"pods go with their Jobs; refrain cycle show {cycle.name} has what they said at their end"
        raise MissingInputError(f"no {is_left} of {stage} is there", where=cycle.name, hint=hint)
    return str(pods[-1 - previous]["metadata"]["name"])


def in_order(pods: list[Json]) -> list[Json]:
    """The pods of a stage, the newest last; of a training on several nodes the first ranks alone. Pure."""
    from controller.objects import ATTEMPT, JOB_INDEX, RUN, labels

    first = [pod for pod in pods if labels(pod).get(JOB_INDEX, "0") == "0"]
    return sorted(
        first,
        key=lambda pod: (
            int(labels(pod).get(ATTEMPT, 0)),
            int(labels(pod).get(RUN, 0)),
            pod["metadata"]["creationTimestamp"],
        ),
    )


def _logs(cluster: Cluster, pod: str) -> bytes:
    from controller.api import ApiError

    try:
        return cluster.logs(pod, container=_CONTAINER)
    except ApiError as error:
        if error.status != 400:
            raise
        raise TransientError(error.message, where=pod, hint="--follow waits for it") from error


def _started(cluster: Cluster, pod: str) -> str:
    """The pod, once it runs or has run. MissingInputError where it goes before."""
    is_told = False
    while True:
        found = cluster.get("pods", pod)
        if found is None:
            raise MissingInputError("the pod is gone", where=pod, hint="the same command again finds the newest")
        if (found.get("status") or {}).get("phase", "Pending") != "Pending":
            return pod
        if not is_told:
            click.echo(f"{pod} has not started yet", err=True)
            is_told = True
        time.sleep(_SECONDS)
