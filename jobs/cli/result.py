"""`refrain result`: what a finished stage gave back, by its marker."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.cli import options
from jobs.cli.termination import option as termination_log_option
from jobs.cli.termination import telling
from jobs.contracts.errors import MissingInputError
from jobs.contracts.records import Json
from jobs.contracts.stages import STAGES


@click.command("result")
@click.argument("stage", type=click.Choice([row.name for row in STAGES]), metavar="STAGE")
@click.argument("file", type=options.PATH, metavar="CYCLE.YAML")
@click.option(
    "--store",
    metavar="URL",
    callback=options.store_url,
    help="The archive, wherever the file says that it is: file:///folder/archive or s3://bucket/archive.",
)
@click.option(
    "--attempt", type=click.IntRange(0), default=0, show_default=True, help="Which attempt of the cycle is meant."
)
@termination_log_option
def command(*, stage: str, file: Path, store: str | None, attempt: int, termination_log: Path | None) -> None:
    """Say what a finished stage gave back, as JSON; nothing is run, and the archive is only read.

    \b
      refrain result select cycle.yaml
      refrain result train cycle.yaml --attempt 1
    """
    import orjson

    with telling(termination_log, stage, attempt) as tell:
        result = _result(stage, file, store, attempt)
        click.echo(orjson.dumps(result, option=orjson.OPT_INDENT_2))
        tell(result)


def _result(stage: str, file: Path, url: str | None, attempt: int) -> Json:
    from jobs.contracts.cycle import load_cycle
    from jobs.contracts.markers import read_result
    from jobs.contracts.store import open_store
    from jobs.files import STANDARD
    from jobs.local.places import located, reach

    cycle = located(load_cycle(file), Path.cwd() if file == STANDARD else file.parent)
    store = open_store(url or cycle.spec.archive_url, reach(cycle.spec.store), read_only=True)
    name = cycle.metadata.name
    result = read_result(store, stage, name, attempt)
    if result is None:
        in_attempt = f" in attempt {attempt}" if attempt else ""
        hint = f"`refrain run` runs it, or goes on with it: refrain run {file}"
        raise MissingInputError(f"{stage} of cycle {name} has not finished{in_attempt}", where=store.url, hint=hint)
    return result
