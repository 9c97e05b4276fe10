"""Flags that several commands share, so that they read the same everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from jobs.contracts.errors import UsageError
from jobs.contracts.records import Json
from jobs.contracts.store import StoreOptions

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

PATH = click.Path(path_type=Path, allow_dash=True)
"""A file, or `-` for standard input or output."""


class Place(click.Path):
    """A file or a folder that `-` cannot stand for."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; UsageError for `-`."""
        if str(value) == "-":
            self.fail("'-' stands for standard input and output: name a file or a folder here", param, ctx)
        return super().convert(value, param, ctx)


class Number(click.FloatRange):
    """A finite number within a range: `nan` would be within any."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; UsageError."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


def store_url(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """The URL; UsageError for what is most likely a mistyped one, and not a folder's name."""
    if value and "://" not in value and not value.startswith(("/", "./", "../")):
        raise UsageError(
            f"not a store: {value}",
            hint="write s3://bucket/archive or file:///folder/archive; or ./folder for a folder",
        )
    return value


seed: Decorator = click.option(
    "-s", "--seed", type=int, default=42, show_default=True, envvar="RANDOM_SEED", show_envvar=True, help="Random seed."
)
workers: Decorator = click.option(
    "--workers",
    type=click.IntRange(1),
    default=None,
    help="Processes to use; results do not depend on it.  [default: all CPUs]",
)
store: Decorator = click.option(
    "--store",
    metavar="URL",
    envvar="REFRAIN_STORE",
    show_envvar=True,
    callback=store_url,
    help="The archive in a store: file:///folder/archive or s3://bucket/archive.",
)
cycle: Decorator = click.option(
    "--cycle",
    metavar="NAME",
    default="manual",
    show_default=True,
    envvar="REFRAIN_CYCLE",
    show_envvar=True,
    help="With --store: the cycle whose artifacts are read and written.",
)
attempt: Decorator = click.option(
    "--attempt",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="With --store: which attempt of the cycle; those above 0 train again after too small a gain.",
)
again: Decorator = click.option(
    "--again", is_flag=True, help="With --store: run the stage once more where it has finished."
)


def answering(function: Callable[..., Any]) -> Callable[..., Any]:
    """Which base model, adapter and index answer: of `ask`, `chat` and `serve`."""
    for one in reversed(_ANSWERING):
        function = one(function)
    return function


_ANSWERING: tuple[Decorator, ...] = (
    store,
    click.option(
        "--cycle", metavar="NAME", help="With --store: the cycle whose index is searched.  [default: the newest]"
    ),
    click.option(
        "--vector-db",
        type=Place(path_type=Path),
        help="Folder of an index.  [default: vector_db, if it is there]",
    ),
    click.option(
        "--base",
        help="Base model: a name on the hub, a folder, or s3://.  [default: the archive's, or the adapter's]",
    ),
    click.option("--revision", help="Its commit on the hub."),
    click.option(
        "--adapter",
        type=Place(path_type=Path),
        metavar="PATH",
        help="An adapter: a folder, ours or PEFT's, or step_<n>.safetensors.  [default: the one in service]",
    ),
    click.option("--base-only", is_flag=True, help="Answer by the bare base model."),
    click.option("--embedding-model", help="Where the index's embedding model is found.  [default: as the index says]"),
    click.option("--device", help="Where to compute: cpu, cuda, mps.  [default: the best there is]"),
)


def is_bare(flags: Json) -> bool:
    """Whether the bare base model is to answer; UsageError where an adapter is named as well."""
    if flags["base_only"] and flags["adapter"] is not None:
        raise UsageError("both --base-only and --adapter are given", hint="leave one out")
    return bool(flags["base_only"])


def is_store_alone(store: str | None, *files: str) -> bool:
    """Whether a store is meant. UsageError where one of these parameters, which are for plain files, was given too."""
    require_alone(store, f"a store ({store})", files, "; REFRAIN_STORE in the environment counts as --store")
    return bool(store)


def is_url_alone(url: str | None, *local: str) -> bool:
    """Whether a server is meant. UsageError where one of these, which are for what is loaded here, was given too."""
    require_alone(url, f"a server ({url})", local)
    return bool(url)


def require_alone(given: object, what: str, others: tuple[str, ...], more: str = "") -> None:
    """UsageError where something is given and one of these parameters, which say the same, is given too."""
    context = click.get_current_context()
    for parameter in context.command.params if given else ():
        if parameter.name in others and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
            raise UsageError(f"both {what} and {_shown(parameter)} are given", hint=f"leave one out{more}")


def _shown(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return "files"
    return max(parameter.opts, key=len)


def in_store(stage: str, config: Any, url: str, cycle: str, *, again: bool, attempt: int = 0) -> Json:
    """Run a stage of a cycle over a store; its result. See `jobs.runner.run_in_store`."""
    from jobs.runner import FINISHED_BEFORE, run_in_store

    options = StoreOptions.from_environment()
    result = run_in_store(stage, config, url=url, cycle=cycle, attempt=attempt, options=options, again=again)
    if result.pop(FINISHED_BEFORE, False):
        click.echo(f"{stage} of cycle {cycle} had finished: nothing was done now; --again runs it once more", err=True)
    return result
