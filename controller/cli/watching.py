"""`refrain cycle watch`."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from controller.cli.place import NAME, Place, with_place
from jobs.contracts.errors import MissingInputError, TransientError

if TYPE_CHECKING:
    from controller.cli.cluster import Cluster
    from controller.cycles import Cycle

_SECONDS = 2.0
"""Between two looks."""
_AWAY_SECONDS = 600.0
"""How long the API server may be away."""
_REFUSED_SECONDS = 60.0
"""How long it may refuse what it has allowed before: one that has just started does not know its rules yet."""


@click.command()
@NAME
@with_place
def watch(*, place: Place, name: str) -> None:
    """Follow a cycle until it ends.

    The exit code is 0 where it ends as Promoted, NotPromoted or Skipped. Where it fails, it is that of the stage
    that failed, or 75 where the stage said none. The cycle itself goes on, whether it is watched or not.
    """
    with place.cluster() as cluster:
        try:
            cycle = _follow(cluster, name)
        except KeyboardInterrupt:
            _clear()
            click.echo(f"{name} goes on; refrain cycle watch {name} follows it again", err=True)
            raise SystemExit(130) from None
    from controller.cli.told import end_words, failure

    if cycle.status.state == "Failed":
        raise failure(cycle)
    click.echo(end_words(cycle))


def _follow(cluster: Cluster, name: str) -> Cycle:
    """Print what changes until the cycle has ended; the cycle as it is then."""
    from controller.cli.told import changes, status_line

    before: Cycle | None = None
    while True:
        cycle = _read(cluster, name, before)
        now = datetime.now(UTC)
        for line in changes(before, cycle, now):
            _clear()
            click.echo(line)
        if cycle.has_ended:
            _clear()
            return cycle
        if sys.stdout.isatty():
            _clear()
            click.echo(_fitting(status_line(cycle, now)), nl=False)
        sys.stdout.flush()
        before = cycle
        time.sleep(_SECONDS)


def _read(cluster: Cluster, name: str, before: Cycle | None) -> Cycle:
    """The cycle; where it was read before, the API server may be away for a while. MissingInputError."""
    from controller.api import ApiError

    began = time.monotonic()
    is_told = False
    while True:
        try:
            cycle = cluster.cycle(name)
        except (TransientError, ApiError) as error:
            is_refused = isinstance(error, ApiError) and error.status < 500 and error.status != 429
            most = _REFUSED_SECONDS if is_refused else _AWAY_SECONDS
            if before is None or time.monotonic() - began > most:
                raise
            if not is_told:
                _clear()
                click.echo(f"{_first_line(error)}; trying again", err=True)
                is_told = True
            time.sleep(_SECONDS)
        except MissingInputError:
            if before is None:
                raise
            raise MissingInputError(f"cycle {name} was deleted", where=f"namespace {cluster.namespace}") from None
        else:
            if before is not None and before.uid != cycle.uid:
                raise MissingInputError(f"cycle {name} was deleted; there is another of that name now")
            return cycle


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def _fitting(line: str) -> str:
    """A line that does not wrap."""
    import shutil

    return line[: shutil.get_terminal_size().columns - 1]


def _clear() -> None:
    """Take away the line that a terminal shows while nothing changes."""
    if sys.stdout.isatty():
        click.echo("\r\033[K", nl=False)
