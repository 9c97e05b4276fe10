"""`refrain cycle gather`: all that a bug report about a cycle needs, in one file."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controller.cli.place import NAME, Place, with_place
from jobs.contracts.errors import OutputError, TransientError
from jobs.contracts.records import Json

if TYPE_CHECKING:
    from controller.cli.cluster import Cluster
    from controller.cycles import Cycle

_MOST_PODS = 60
"""Whose logs are taken: the newest."""
_LOG_OPTIONS = {"tailLines": "20000", "limitBytes": str(1 << 20), "timestamps": "true"}
_MOST_EVENTS = 2000

_README = """\
What `refrain cycle gather` found about a cycle: for a bug report.

cycle.json        the cycle itself
archive.txt       all cycles of its archive
jobs/ pods/       of its stages
events.json       of the cycle, its Jobs and its pods
logs/             of its pods, the last MiB of each
controller/       Deployments and pods of Refrain in this namespace, and the controller's logs
versions.json     of refrain and of the cluster
missing.txt       what could not be read, and why

Secrets were not read. Variables whose names sound secret, credentials in URLs and tokens were taken out where
they could be told. Logs and sources may name people and folders: look through it before you publish it.
"""


@click.command()
@NAME
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.tar.gz",
    help="File to write.  [default: NAME.tar.gz]",
)
@with_place
def gather(*, place: Place, name: str, output: Path | None) -> None:
    """Collect in one file what a bug report needs.

    That is the cycle, its Jobs, pods, events and logs, and the controller's. No Secret is read; the file's
    README says what was taken out. What may not be read is named in it.
    """
    output = output or Path(f"{name}.tar.gz")
    with place.cluster() as cluster:
        cycle = cluster.cycle(name)
        report = Report(cluster, cycle)
        report.collect()
    with _written(output) as stream, tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for path, data in report.files.items():
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(data))
    click.echo(f"{output}: {len(report.files)} files; look through it before you publish it")
    for line in report.missing:
        click.echo(f"without {line}", err=True)


class Report:
    """The files of a report, in the making."""

    def __init__(self, cluster: Cluster, cycle: Cycle) -> None:
        self._cluster = cluster
        self._cycle = cycle
        self.files: dict[str, bytes] = {"README.txt": _README.encode()}
        self.missing: list[str] = []
        """What could not be read, and why."""

    def collect(self) -> None:
        """Read all that can be read."""
        from controller.cli.redaction import document
        from controller.objects import CYCLE, NAME
        from jobs import __version__

        self.files["cycle.json"] = document(self._cycle.raw)
        self.files["archive.txt"] = self._archive()
        versions = {"refrain": __version__, "cluster": self._try("the cluster's version", self._cluster.version, {})}
        self.files["versions.json"] = document(versions)
        mine = f"{CYCLE}={self._cycle.name}"
        jobs, pods = self._objects("jobs", mine, "jobs"), self._objects("pods", mine, "pods")
        self._events([self._cycle.raw, *jobs, *pods])
        self._logs("logs", pods)
        ours = f"{NAME}=refrain,!{CYCLE}"
        self._objects("deployments", ours, "controller/deployments")
        self._logs("controller/logs", self._objects("pods", ours, "controller/pods"))
        if self.missing:
            self.files["missing.txt"] = "".join(f"{line}\n" for line in self.missing).encode()

    def _try(self, what: str, act: Callable[[], Any], otherwise: Any) -> Any:
        from controller.api import ApiError

        try:
            return act()
        except (ApiError, TransientError) as error:
            self.missing.append(f"{what}: {' '.join(str(error).split())[:500]}")
            return otherwise

    def _archive(self) -> bytes:
        from datetime import UTC, datetime

        from controller.cli.tables import cycle_table

        cycles: list[Cycle] = self._try(
            "cycles of the archive", lambda: self._cluster.cycles(self._cycle.archive), [self._cycle]
        )
        return "\n".join([*cycle_table(cycles, datetime.now(UTC)), ""]).encode()

    def _objects(self, kind: str, selector: str, folder: str) -> list[Json]:
        from controller.cli.redaction import document
        from controller.objects import name

        found: list[Json] = self._try(kind, lambda: self._cluster.list(kind, labelSelector=selector), [])
        for one in found:
            self.files[f"{folder}/{name(one)}.json"] = document(one)
        return found

    def _events(self, about: list[Json]) -> None:
        from controller.cli.redaction import document
        from controller.cli.told import newest
        from controller.objects import uid

        uids = {uid(one) for one in about}
        found: list[Json] = self._try("events", lambda: self._cluster.list("events"), [])
        ours = [one for one in found if one.get("involvedObject", {}).get("uid") in uids]
        self.files["events.json"] = document(newest(ours, _MOST_EVENTS))

    def _logs(self, folder: str, pods: list[Json]) -> None:
        from controller.cli.redaction import masked
        from controller.objects import name

        by_age = sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        for pod in by_age[-_MOST_PODS:]:
            for container in (one["name"] for one in pod["spec"]["containers"]):
                data = self._log(name(pod), container)
                if data:
                    self.files[f"{folder}/{name(pod)}.{container}.log"] = masked(data)

    def _log(self, pod: str, container: str) -> bytes:
        options = {**_LOG_OPTIONS, "container": container}
        found: bytes = self._try(f"logs of {pod}", lambda: self._cluster.logs(pod, **options), b"")
        return found


@contextlib.contextmanager
def _written(path: Path) -> Iterator[io.BufferedWriter]:
    """A file that is there whole or not at all, for its owner alone. OutputError."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            yield stream
        scratch.replace(path)
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror}", where=str(path)) from error
    finally:
        scratch.unlink(missing_ok=True)
