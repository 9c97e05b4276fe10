"""`refrain shards`: which archived train shards are active."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.cli import options
from jobs.contracts.words import counted
from jobs.files import STANDARD


@click.command(name="shards")
@click.argument("folder", type=options.Place(path_type=Path), metavar="DIR")
@click.option(
    "--keep-shards", type=click.IntRange(1), default=5, show_default=True, help="How many of the newest stay active."
)
@click.option("--max-bytes", type=click.IntRange(1), help="Bytes of the active ones together; the newest stays anyway.")
@click.option(
    "-o",
    "--output",
    type=options.PATH,
    help="The active shards' records, each chunk once.  [default: old_train.json in DIR]",
)
@click.option(
    "--list",
    "listing",
    type=options.PATH,
    help="Which shards are active and which archived.  [default: shards.json beside the output]",
)
def command(folder: Path, keep_shards: int, max_bytes: int | None, output: Path | None, listing: Path | None) -> None:
    """Keep the newest train shards active, and write old_train.json from them.

    Shards are files such as train_2025-11-04.json or .jsonl, ordered by the date in their names.
    The older ones are listed as archived; nothing is ever deleted.
    """
    from jobs.files import write_json, write_json_array
    from jobs.replay.shard_window import choose_active, find_shards, old_train

    window = choose_active(find_shards(folder), keep_shards, max_bytes)
    output = output or folder / "old_train.json"
    num_records = write_json_array(output, old_train(window))
    if listing or output != STANDARD:
        write_json(listing or output.with_name("shards.json"), window.listing())
    for state, shards in (("active", window.active), ("archived", window.archived)):
        for shard in shards:
            click.echo(f"{state:<9}{shard.num_bytes:>14,} bytes  {shard.path.name}", err=True)
    click.echo(f"shards: {counted(num_records, 'chunk')} in {counted(len(window.active), 'active shard')}", err=True)
