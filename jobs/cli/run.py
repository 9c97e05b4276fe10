"""`refrain run`: a cycle's stages on this machine."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.cli import options, termination
from jobs.cli.train import is_follower, take_part
from jobs.contracts.errors import RefrainError, UsageError
from jobs.contracts.progression import Step
from jobs.contracts.shares import Gathering, Share, indexes_of
from jobs.contracts.stages import STAGES

if TYPE_CHECKING:
    from jobs.contracts.cycle import RetrainCycle
    from jobs.local.session import Session


def _share(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Share | None:
    try:
        return Share.of(value) if value is not None else None
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _indexes(_context: click.Context, _parameter: click.Parameter, value: str) -> list[int]:
    try:
        return indexes_of(value)
    except ValueError as error:
        raise click.BadParameter(f"not a list of shares: {value!r}. Write it as 1,3-5") from error


_STAGE = click.Choice([row.name for row in STAGES])


@click.command("run")
@click.argument("file", type=options.PATH, metavar="CYCLE.YAML")
@click.option(
    "--store",
    metavar="URL",
    callback=options.store_url,
    help="The archive, wherever the file says that it is: file:///folder/archive or s3://bucket/archive.",
)
@click.option("--until", type=_STAGE, help="Stop behind this stage; a later run goes on.")
@click.option("--only", type=_STAGE, help="Run this stage alone; those before it have to be finished.")
@click.option(
    "--attempt",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="With --only: which attempt of the cycle; those above 0 train again after too small a gain.",
)
@click.option("--again", is_flag=True, help="Run each stage once more, finished or not.")
@click.option("--no-cleanup", is_flag=True, help="Keep what spec.retention would have deleted at the cycle's end.")
@click.option("--take-over", is_flag=True, help="Break the claim of a run or an owner that is known to be gone.")
@click.option(
    "--owner",
    metavar="ID",
    envvar="REFRAIN_OWNER",
    show_envvar=True,
    help="With --only: claim the archive for who runs its stages one by one; others are refused from then on.",
)
@click.option(
    "--withhold",
    metavar="REASON: MESSAGE",
    help="With --only promote: keep the winner out of service after all, and say why.",
)
@click.option(
    "--share",
    metavar="I/N",
    callback=_share,
    help="With --only evaluate: score the I-th (from 0) of N shares of the checkpoints, for --gather to put together.",
)
@click.option(
    "--gather",
    type=click.IntRange(1),
    metavar="N",
    help="With --only evaluate: put the N shares together that others have scored; needs no model.",
)
@click.option(
    "--without",
    metavar="I,J-K",
    default="",
    callback=_indexes,
    help="With --gather: shares that are done without where they are missing; their checkpoints are named.",
)
@termination.option
@click.option("--device", type=click.Choice(["cuda", "mps", "cpu"]), help="Where models run.  [default: the best]")
@click.option("--progress-port", type=click.IntRange(0, 65_535), help="Serve training's /progress and /metrics there.")
@options.workers
@click.option("--json", "as_json", is_flag=True, help="Print the cycle's status as JSON at the end.")
def command(
    *,
    file: Path,
    store: str | None,
    only: str | None,
    until: str | None,
    attempt: int,
    again: bool,
    no_cleanup: bool,
    take_over: bool,
    owner: str | None,
    withhold: str | None,
    share: Share | None,
    gather: int | None,
    without: list[int],
    termination_log: Path | None,
    device: str | None,
    progress_port: int | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """Run a cycle: from new mail to, perhaps, a better adapter in service.

    The file is the one that `kubectl apply` takes; its fields about pods mean nothing here. Stages
    run in their order over the archive that the file names, and each tells what it did. What is
    finished is not done again: after whatever has stopped a run, the same command goes on.

    Ends well where the adapter is promoted, where the incumbent stays, and where too little mail
    came to train on (Skipped): it says which, and why.

    \b
      refrain run cycle.yaml
      refrain run cycle.yaml --until sample
      refrain run cycle.yaml --only train --attempt 1      (what a stage's pod does)
    """
    _require_sense(only=only, until=until, attempt=attempt, withhold=withhold, termination_log=termination_log)
    share_of = _share_of(only, share, gather, without)
    if only == "train" and is_follower():
        _follow(file, device)
        return
    machine = {"workers": workers, "device": device, "progress_port": progress_port, "tells": bool(only)}
    settings = {"again": again, "cleanup": not no_cleanup, "owner": owner if only else None, "withhold": withhold}
    with termination.telling(termination_log, only or "", attempt) as tell:
        session = _session(file, store, machine, settings | {"share": share_of})
        try:
            if only:
                status = session.run_only(Step(only, attempt), take_over=take_over)
            else:
                status = session.run(until, take_over=take_over)
        except RefrainError as error:
            if as_json:
                _print(session.failed(error))
            raise
        if as_json:
            _print(session.report(status))
        if session.result is not None:
            tell(session.result)


def _require_sense(
    *, only: str | None, until: str | None, attempt: int, withhold: str | None, termination_log: Path | None
) -> None:
    if only and until:
        raise UsageError("both --only and --until are given", hint="leave one out")
    if attempt and not only:
        raise UsageError("--attempt is for --only: a whole run knows its attempts itself")
    if withhold is not None and only != "promote":
        raise UsageError("--withhold is for --only promote")
    if termination_log is not None and not only:
        raise UsageError("--termination-log is for --only: it takes the result of one stage")


def _share_of(
    only: str | None, share: Share | None, gather: int | None, without: list[int]
) -> Share | Gathering | None:
    """What of a stage this run does; None for all of it."""
    if (share or gather) and only != "evaluate":
        raise UsageError("--share and --gather are for --only evaluate")
    if share and gather:
        raise UsageError("both --share and --gather are given", hint="gather once all shares are scored")
    if without and not gather:
        raise UsageError("--without is for --gather")
    return Gathering(gather, without) if gather else share


def _located(file: Path) -> RetrainCycle:
    from jobs.contracts.cycle import load_cycle
    from jobs.files import STANDARD
    from jobs.local.places import located

    return located(load_cycle(file), Path.cwd() if file == STANDARD else file.parent)


def _follow(file: Path, device: str | None) -> None:
    from jobs.local.places import reach

    reach(_located(file).spec.store)  # a base model at s3:// comes from the same service
    take_part(device)


def _session(file: Path, url: str | None, machine: Mapping[str, Any], settings: Mapping[str, Any]) -> Session:
    from jobs.local.configs import Machine
    from jobs.local.session import Session

    cycle = _located(file)
    return Session(
        cycle, url or cycle.spec.archive_url, _say, Machine(**machine), file=str(file), begin=_begin, **settings
    )


def _say(text: str) -> None:
    click.echo(text, err=True)


def _begin(stage: str) -> None:
    """On a terminal the stage's name stands where its bar, and then its line, is going to be."""
    if sys.stderr.isatty():
        click.echo(f"{stage} …\r", nl=False, err=True)


def _print(value: Any) -> None:
    import orjson

    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))
