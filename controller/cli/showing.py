"""`refrain cycle list` and `show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from controller.cli.place import AS_JSON, NAME, Place, with_place
from jobs.contracts.records import Json

if TYPE_CHECKING:
    from controller.cli.cluster import Cluster
    from controller.cycles import Cycle

_NUM_EVENTS = 10


@click.command("list")
@click.option("--archive", metavar="ARCHIVE", help="Those of one archive alone.")
@AS_JSON
@with_place
def list_(*, place: Place, archive: str | None, as_json: bool) -> None:
    """List the cycles of a namespace, in order of creation."""
    from datetime import UTC, datetime

    with place.cluster() as cluster:
        from controller.cli.tables import cycle_table

        cycles = cluster.cycles(archive)
        if as_json:
            _print([tidy(one.raw) for one in cycles])
        elif cycles:
            click.echo("\n".join(cycle_table(cycles, datetime.now(UTC))))
        else:
            of_archive = f" of archive {archive}" if archive else ""
            click.echo(f"no cycles{of_archive} in namespace {cluster.namespace}", err=True)


@click.command()
@NAME
@AS_JSON
@with_place
def show(*, place: Place, name: str, as_json: bool) -> None:
    """Show a cycle: its stages, and its conditions with what to do."""
    from datetime import UTC, datetime

    with place.cluster() as cluster:
        from controller.cli.told import described

        cycle = cluster.cycle(name)
        if as_json:
            _print(tidy(cycle.raw))
        else:
            click.echo("\n".join(described(cycle, _events(cluster, cycle), datetime.now(UTC))))


def _events(cluster: Cluster, cycle: Cycle) -> list[Json]:
    """The newest ones; none where reading them is not allowed, which is told."""
    from controller.api import ApiError
    from controller.cli.told import newest

    try:
        return newest(cluster.list("events", fieldSelector=f"involvedObject.uid={cycle.uid}"), _NUM_EVENTS)
    except ApiError as error:
        if error.status != 403:
            raise
        click.echo(f"without events: {error.message}", err=True)
        return []


def tidy(thing: Json) -> Json:
    """An object without what only the API server has use for."""
    metadata = {key: value for key, value in thing["metadata"].items() if key != "managedFields"}
    return {**thing, "metadata": metadata}


def _print(value: Any) -> None:
    import orjson

    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))
