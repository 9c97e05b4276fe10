"""`refrain window`: the new train chunks of a window, and its val and test sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from jobs.cli import options
from jobs.cli.replay_options import (
    COMPANIONS,
    chunks,
    length_metadata,
    named,
    tell,
    window_idx,
)
from jobs.contracts.records import SPLITS
from jobs.files import STANDARD

_KINDS = {"train": "new_train", "val": "val_set", "test": "test_set"}


@click.command(name="window")
@click.option("--assignments", type=options.PATH, help="The assignments.  [default: assignments.json]")
@window_idx
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="train",
    show_default=True,
    help="train: the chunks of this window alone. val, test: all up to it, but threads that were joined with train.",
)
@chunks
@length_metadata
@click.option("--exclusions", type=options.PATH, help="What leaves the scores.  [default: exclusions.json beside it]")
@click.option(
    "--min-new-messages",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    help="With fewer new train messages, say that this cycle is to be skipped.",
)
@click.option("-o", "--output", type=options.PATH, default=STANDARD, show_default=True, help="The list to write.")
@options.store
@options.cycle
@options.again
def command(
    *, assignments: Path | None, store: str | None, cycle: str, again: bool, split: str, output: Path, **flags: Any
) -> None:
    """List this window's new train chunks; or the val or test chunks up to it.

    The list is a JSON array of chunk_id, thread_id, split, window_idx, sender, num_tokens and
    length_bucket, in the order of the log. With --store, all three lists are written.

    \b
      refrain window --assignments assignments.json --window-idx 27 --split train > new_train.json
      refrain window --store s3://bucket/archive --cycle 2019-w40
    """
    from jobs.stages import Inputs, Outputs
    from jobs.stages.window import Config, run

    companions = {kind: flags.pop(name) for kind, name in COMPANIONS.items() if name in flags}
    config = Config(**flags)
    if options.is_store_alone(store, "assignments", "output", *COMPANIONS.values()):
        tell("window", options.in_store("window", config, store or "", cycle, again=again))
        return
    paths = named(assignments=assignments or Path("assignments.json"), **companions)
    tell("window", run(config, Inputs(paths), Outputs({_KINDS[split]: output})))
