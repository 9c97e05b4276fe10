"""`refrain merge`: an adapter merged into its base model for good."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.cli import options


@click.command(name="merge")
@click.option(
    "--adapter",
    type=options.Place(path_type=Path),
    required=True,
    metavar="PATH",
    help="The adapter: a folder, ours or PEFT's, or step_<n>.safetensors with its settings beside it.",
)
@click.option("--base", help="Its base model: a name on the hub, a folder, or s3://.  [default: as the adapter says]")
@click.option("--revision", help="Commit of the base model on the hub.  [default: as the adapter says]")
@click.option(
    "--out", "-o", type=options.Place(path_type=Path), required=True, metavar="DIR", help="A new folder for the model."
)
def command(*, adapter: Path, base: str | None, revision: str | None, out: Path) -> None:
    """Merge an adapter into its base model.

    Writes a model as Hugging Face's are, with its tokenizer, in the precision of the base model's files: what
    any program loads that knows nothing of adapters. refrain.json beside it says what it was made of.

    \b
      refrain merge --adapter checkpoints/step_300 --out merged/
      refrain merge --adapter checkpoints/step_1000.safetensors --base model/ --out merged/
    """
    from jobs.contracts.store import StoreOptions
    from jobs.files import scratch_folder
    from jobs.ml.adapters import merge_adapter
    from jobs.ml.checkpoint_files import as_adapter, base_of

    found = base_of(adapter, base, revision, options=StoreOptions.from_environment())
    with scratch_folder("refrain-merge-") as scratch:
        folder, note = as_adapter(adapter, found, scratch)
        merge_adapter(found, folder, out)
    if note:
        click.echo(f"refrain: note: {adapter}: {note}", err=True)
    click.echo(f"merge: {adapter} in {found.name}, written to {out}", err=True)
