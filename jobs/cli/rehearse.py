"""`refrain rehearse`: the manifest of old train chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from jobs.cli import options
from jobs.cli.replay_options import (
    COMPANIONS,
    active_windows,
    chunks,
    length_metadata,
    named,
    tell,
    window_idx,
)
from jobs.contracts.errors import UsageError
from jobs.contracts.records import SPLITS


@click.command(name="rehearse")
@click.option("--assignments", type=options.PATH, help="The assignments.  [default: assignments.json]")
@window_idx
@active_windows
@chunks
@length_metadata
@click.option(
    "--current-window-shards",
    type=options.PATH,
    multiple=True,
    help="Train shards of the current window: their chunks are not rehearsed either. May be repeated.",
)
@click.option(
    "--max-rehearsal-samples",
    type=click.IntRange(0),
    default=20000,
    show_default=True,
    help="Chunks in the manifest.",
)
@click.option(
    "--max-per-bucket", type=click.IntRange(1), help="Chunks of one sender in one thread and one length bucket."
)
@click.option("--shard-size", type=click.IntRange(1), help="Write numbered files of so many chunks: train-00001.json …")
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="train",
    show_default=True,
    help="With --shard-size: package the chunks of this split. val and test are never rehearsed.",
)
@options.seed
@click.option(
    "-o",
    "--output",
    type=options.PATH,
    default=Path("old_shards_train.json"),
    show_default=True,
    help="The manifest; with --shard-size the folder, or a file name whose suffix the shards get (.json.gz).",
)
@options.store
@options.cycle
@options.again
@click.argument("more_shards", type=options.PATH, nargs=-1, metavar="")  # --current-window-shards a.json b.json
def command(
    *,
    assignments: Path | None,
    store: str | None,
    cycle: str,
    again: bool,
    current_window_shards: tuple[Path, ...],
    more_shards: tuple[Path, ...],
    output: Path,
    **flags: Any,
) -> None:
    """List the old train chunks that may be rehearsed: the manifest.

    They are of train and from before the active windows, never of val or test; spread over
    senders, threads and lengths, and capped. On a first cycle the list is empty, and that is fine.

    \b
      refrain rehearse --assignments assignments.json --window-idx 27 -o old_shards_train.json
      refrain rehearse --split val --shard-size 1000 -o shards/
    """
    from jobs.stages import Inputs, Outputs
    from jobs.stages.rehearse import Config, run

    if more_shards and not current_window_shards:
        raise UsageError(f"an unexpected argument: {more_shards[0]}", hint="the assignments are given by --assignments")
    companions = {kind: flags.pop(name) for kind, name in COMPANIONS.items() if name in flags}
    config = Config(**flags)
    files = ("assignments", "output", "current_window_shards", "shard_size", "split", *COMPANIONS.values())
    if options.is_store_alone(store, *files):
        tell("rehearse", options.in_store("rehearse", config, store or "", cycle, again=again))
        return
    paths = named(assignments=assignments or Path("assignments.json"), **companions)
    paths["current_window_shards"] = [*current_window_shards, *more_shards]
    tell("rehearse", run(config, Inputs(paths), Outputs({"manifest": output})))
