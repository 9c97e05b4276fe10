"""`refrain cycle create`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from controller.cli.place import Place, with_place
from jobs.contracts.errors import InputError, UsageError
from jobs.contracts.records import Json


@click.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), metavar="FILE")
@click.option("--name", metavar="NAME", help="Name of the cycle, wherever the file says another.")
@click.option("--suspend", is_flag=True, help="It waits until it is resumed.")
@click.option("--dry-run", is_flag=True, help="Let the cluster check it, and create nothing.")
@with_place
def create(*, place: Place, file: Path, name: str | None, suspend: bool, dry_run: bool) -> None:
    """Create a cycle from a YAML or JSON file, `-` for standard input.

    The file is checked here first, so that an error has its line.

    \b
      refrain cycle create cycle.yaml --dry-run
      refrain cycle create cycle.yaml --name linux-raid-2026-w48 --suspend
    """
    document = read_document(file, name=name, suspend=suspend)
    namespace = document["metadata"].get("namespace")
    if place.namespace and namespace and namespace != place.namespace:
        raise UsageError(f"the file says namespace {namespace}, the command line {place.namespace}", where=str(file))
    with place.cluster(namespace) as cluster:
        from controller.api import ApiError

        try:
            made = cluster.create_cycle(document, dry_run=dry_run)
        except ApiError as error:
            if error.status == 409 and error.reason == "AlreadyExists":
                raise _is_there(document["metadata"]["name"], cluster.namespace) from error
            raise
    said = "would be created (dry run)" if dry_run else "created"
    name = made["metadata"]["name"]
    click.echo(f"{name}: {said} in namespace {cluster.namespace}, for archive {made['spec']['archive']}")
    if not dry_run:
        click.echo(f"refrain cycle watch {name} follows it", err=True)


def _is_there(name: str, namespace: str) -> InputError:
    hint = f"give the new one another name (--name), or first: refrain cycle delete {name}"
    return InputError(f"there is a cycle {name} already", where=f"namespace {namespace}", hint=hint)


def read_document(file: Path, *, name: str | None, suspend: bool) -> Json:
    """The cycle of a file as it is sent: what it says, and nothing that it leaves to defaults.

    Raises ConfigError with the line, MissingInputError, UsageError for a name that is none.
    """
    document = sent(file)
    if name is not None:
        document["metadata"]["name"] = _checked(name)
    if suspend:
        document["spec"]["suspend"] = True
    return document


def sent(file: Path, fill: Callable[[Any], Any] = lambda value: value) -> Json:
    """The checked cycle of a file, filled in, as JSON for the API server. ConfigError, MissingInputError."""
    from jobs.contracts.cycle import load_cycle

    cycle = load_cycle(file, fill).model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"status"})
    return whole_numbers(cycle)  # type: ignore[no-any-return]


def _checked(name: str) -> str:
    from pydantic import ValidationError

    from jobs.contracts.cycle.spec import Metadata

    try:
        return Metadata(name=name).name
    except ValidationError as error:
        hint = "at most 63 lower-case letters and digits, with - or . between them"
        raise UsageError(f"not a name for a cycle: {name}", hint=hint) from error


def whole_numbers(value: Any) -> Any:
    """The value with 3 for 3.0: JSON knows one kind of number, but the API server's rules tell them apart."""
    if isinstance(value, dict):
        return {key: whole_numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [whole_numbers(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
