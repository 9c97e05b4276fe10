"""`refrain plan`: what a cycle would do."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.cli import options


@click.command("plan")
@click.argument("file", type=options.PATH, metavar="CYCLE.YAML")
@click.option(
    "--store",
    metavar="URL",
    callback=options.store_url,
    help="The archive, wherever the file says that it is: file:///folder/archive or s3://bucket/archive.",
)
@click.option(
    "--tokens-per-second",
    type=click.FloatRange(0, min_open=True),
    help="How fast training is.  [default: as fast as the archive's last cycle]",
)
@options.workers
@click.option("--jobs", is_flag=True, help="List the Jobs of a cluster too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    *, file: Path, store: str | None, tokens_per_second: float | None, workers: int | None, jobs: bool, as_json: bool
) -> None:
    """Say what a cycle would do, and what it would take; nothing is written to its archive.

    Mail is read, threaded and split as `refrain run` would do it, with the results in scratch: the counts,
    the window, the tokens and the steps are those of the run. Memory is an estimate, by formulas that
    docs/cycle.md gives; time comes from the archive's last cycle or from --tokens-per-second.

    \b
      refrain plan cycle.yaml
      refrain plan cycle.yaml --json
    """
    import orjson

    from jobs.contracts.cycle import load_cycle
    from jobs.files import STANDARD
    from jobs.local.configs import Machine
    from jobs.local.places import located
    from jobs.local.plan_text import plan_text
    from jobs.local.planning import plan_cycle

    cycle = located(load_cycle(file), Path.cwd() if file == STANDARD else file.parent)
    url = store or cycle.spec.archive_url
    plan = plan_cycle(cycle, url, machine=Machine(workers=workers), tokens_per_second=tokens_per_second, file=str(file))
    click.echo(orjson.dumps(plan.as_json(), option=orjson.OPT_INDENT_2) if as_json else plan_text(plan, jobs=jobs))
