"""`refrain sample`: the schedule of batches."""

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
)
from jobs.contracts.errors import UsageError
from jobs.files import STANDARD


@click.command(name="sample")
@click.argument("manifest", type=options.PATH, required=False, metavar="[OLD_SHARDS_TRAIN]")
@click.argument("new_train", type=options.PATH, required=False, metavar="[NEW_TRAIN]")
@click.option(
    "--replay-ratio",
    default="1:4",
    show_default=True,
    help="Old to new, in chunks; or the share of the total, as 0.2.",
)
@click.option("--max-share", default="0.2", show_default=True, help="Cap on the old chunks' share of the total.")
@click.option("--max-samples", type=click.IntRange(0), help="Cap on the old chunks of an epoch.")
@click.option(
    "--min-per-bucket",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="Old chunks that every sender has in every thread of theirs, before the rest is shared out.",
)
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Chunks in a batch.")
@click.option("--batch-tokens", type=click.IntRange(1), help="Instead: tokens in a batch, padding counted.")
@click.option("--epochs", type=click.IntRange(1), default=3, show_default=True, help="Epochs to schedule.")
@active_windows
@click.option("--window-idx", type=click.IntRange(0), help="The window, W.  [default: that of the newest new chunk]")
@click.option(
    "--assignments",
    type=options.PATH,
    help="What every chunk is checked against.  [default: assignments.json beside the manifest, where there is one]",
)
@chunks
@length_metadata
@options.seed
@click.option(
    "-o",
    "--output",
    type=options.PATH,
    default=Path("epoch_schedule.json"),
    show_default=True,
    help="The schedule to write.",
)
@options.store
@options.cycle
@options.again
def command(
    *,
    manifest: Path | None,
    new_train: Path | None,
    assignments: Path | None,
    store: str | None,
    cycle: str,
    again: bool,
    output: Path,
    **flags: Any,
) -> None:
    """Schedule the batches of every epoch: all new chunks, and a stratified draw of old ones among them.

    Prints who is rehearsed how much, the shares reached and the padding.

    \b
      refrain sample old_shards_train.json new_train.json --replay-ratio 1:4 --batch-size 16 \\
          --min-per-bucket 2 -o epoch_schedule.json
    """
    from jobs.stages import Inputs, Outputs
    from jobs.stages.sample import Config, run

    companions = {kind: flags.pop(name) for kind, name in COMPANIONS.items() if name in flags}
    config = Config(**flags)
    if options.is_store_alone(store, "manifest", "assignments", "output", *COMPANIONS.values()):
        tell("sample", options.in_store("sample", config, store or "", cycle, again=again))
        return
    if manifest is None or new_train is None:
        hint = "refrain sample old_shards_train.json new_train.json"
        raise UsageError("needs the manifest and the new train chunks", hint=hint)
    beside = manifest.with_name("assignments.json")
    if assignments is None and manifest != STANDARD and beside.exists():
        assignments = beside
    paths = named(manifest=manifest, new_train=new_train, assignments=assignments, **companions)
    outputs = {"schedule": output}
    if output != STANDARD:
        outputs["report"] = STANDARD
    tell("sample", run(config, Inputs(paths), Outputs(outputs)))
