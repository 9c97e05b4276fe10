"""`refrain merge`: an adapter merged into its base model for good."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.cli import options


@click.command(name="merge")
@click.option("--adapter", type=options.Place(path_type=Path), required=True, metavar="DIR", help="The adapter.")
@click.option("--base", help="Its base model: a name on the hub, a folder, or s3://.  [default: as the adapter says]")
@click.option("--revision", help="Commit of the base model on the hub.  [default: as the adapter says]")
@click.option(
    "--out", "-o", type=options.Place(path_type=Path), required=True, metavar="DIR", help="A new folder for the model."
)
def command(*, adapter: Path, base: str | None, revision: str | None, out: Path) -> None:
    """Merge an adapter into its base model.

    Writes a model as Hugging Face's are, with its tokenizer, in the precision of the base model's files: what
    any program loads that knows nothing of adapters. refrain.json beside it says what it was made of.
    """
    from jobs.contracts.store import StoreOptions
    from jobs.ml.adapter_files import read_origin
    from jobs.ml.adapters import merge_adapter
    from jobs.ml.base_model import find_base

    origin = read_origin(adapter)
    if base is None:
        base, revision = origin["base"], revision or origin["revision"]
    found = find_base(base, revision, options=StoreOptions.from_environment())
    merge_adapter(found, adapter, out)
    click.echo(f"merge: {adapter} in {found.name}, written to {out}", err=True)
