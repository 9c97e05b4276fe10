"""`refrain export`: an adapter with its model card, in the layout that PEFT reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.cli import options
from jobs.contracts.errors import InputError, MissingInputError, UsageError
from jobs.contracts.records import Json

if TYPE_CHECKING:
    from jobs.contracts.store import Store
    from jobs.production import Production


@click.command(name="export")
@click.option(
    "--adapter",
    type=options.Place(path_type=Path),
    metavar="PATH",
    help="The adapter: a folder, ours or PEFT's, or step_<n>.safetensors with its settings beside it.",
)
@click.option("--base", help="With --adapter: its base model.  [default: as the adapter says]")
@click.option("--revision", help="With --adapter: commit of the base model on the hub.")
@click.option(
    "--decision", type=options.PATH, help="With --adapter: the decision.json that chose it, for the card's scores."
)
@options.store
@click.option("--seq", type=click.IntRange(1), help="With --store: the production record.  [default: the newest]")
@click.option("--cycle", metavar="NAME", help="With --store, instead: what this cycle put into service.")
@click.option(
    "-o", "--output", type=options.Place(path_type=Path), required=True, metavar="DIR", help="A new folder for it."
)
def command(
    *,
    adapter: Path | None,
    base: str | None,
    revision: str | None,
    decision: Path | None,
    store: str | None,
    seq: int | None,
    cycle: str | None,
    output: Path,
) -> None:
    """Write an adapter with a model card into a new folder, as PeftModel.from_pretrained loads it.

    The card says of which base model it is, by revision and digests, and how it did and why it came into
    service where that is known.
    """
    from jobs.files import read_json, scratch_folder

    if options.is_store_alone(store, "adapter", "base", "revision", "decision"):
        if seq is not None and cycle is not None:
            raise UsageError("both --seq and --cycle are given", hint="leave one out")
        from jobs.contracts.store import StoreOptions, open_archive
        from jobs.production import bring_adapter

        opened = open_archive(store or "", StoreOptions.from_environment())
        record = _record(opened, seq, cycle)
        with scratch_folder("refrain-export-") as scratch:
            folder = bring_adapter(opened, record, scratch / "adapter")
            if folder is None:
                what = f"production record {record.seq} is the bare base model: there is no adapter"
                raise MissingInputError(what, where=opened.url, hint="name another record with --seq")
            facts = {"cycle": record.cycle, "production_seq": record.seq, "window_idx": record.window_idx}
            _export(folder, output, facts, _decision_of(opened, record))
        return
    if adapter is None:
        raise UsageError("needs an adapter", hint="--adapter DIR, or --store for the one in service")
    if seq is not None or cycle is not None:
        raise UsageError("--seq and --cycle are for a store", hint="name it with --store")
    with scratch_folder("refrain-export-") as scratch:
        folder = _own(adapter, base, revision, scratch)
        _export(folder, output, {}, read_json(decision) if decision else None)


def _own(adapter: Path, base: str | None, revision: str | None, scratch: Path) -> Path:
    """The adapter as a folder of ours; the base model is looked at where it is named, or the adapter is not ours."""
    from jobs.contracts.store import StoreOptions
    from jobs.ml.adapter_files import ORIGIN
    from jobs.ml.checkpoint_files import as_adapter, base_of

    if base is None and (adapter / ORIGIN).is_file():
        return adapter
    found = base_of(adapter, base, revision, options=StoreOptions.from_environment())
    folder, note = as_adapter(adapter, found, scratch)
    if note:
        click.echo(f"refrain: note: {adapter}: {note}", err=True)
    return folder


def _export(folder: Path, output: Path, facts: Json, decision: Json | None) -> None:
    from jobs.ml.adapter_files import adapter_digest, export_adapter, read_origin, read_settings
    from jobs.ml.model_card import model_card

    digest = adapter_digest(folder)
    if decision is not None and _winner(decision) != digest:
        raise InputError(f"the decision did not choose this adapter ({digest[:16]}…)", where="--decision")
    card = model_card(read_origin(folder), read_settings(folder), digest, facts=facts, decision=decision)
    export_adapter(folder, output, card)
    click.echo(f"export: adapter {digest[:16]}… and its card, written to {output}", err=True)


def _record(store: Store, seq: int | None, cycle: str | None) -> Production:
    """The record that is meant; MissingInputError."""
    from jobs.production import records

    known = list(records(store))
    if cycle is not None:
        known = [one for one in known if one.action == "promote" and one.cycle == cycle]
    if seq is not None:
        known = [one for one in known if one.seq == seq]
    if known:
        return known[-1]
    named = f"cycle {cycle} has put nothing into service" if cycle else "no such production record"
    if not cycle and not seq:
        what, hint = "nothing has been put into service yet", "--adapter takes any checkpoint's folder"
        raise MissingInputError(what, where=store.url, hint=hint)
    raise MissingInputError(named, where=store.url, hint="`refrain promote --history` lists what was in service")


def _decision_of(store: Store, record: Production) -> Json | None:
    """The decision that chose the adapter: of the attempt that decided, which need not be the one that trained it."""
    import orjson

    from jobs.contracts.artifacts import ARTIFACTS

    for key in store.list(f"cycles/{record.cycle}/"):
        if key.endswith(f"/select/{ARTIFACTS['decision'].filename}"):
            decision: Json = orjson.loads(store.get(key))
            # Attempts before it had the same winner perhaps, and asked for another try.
            if decision["outcome"] == "Promote" and _winner(decision) == record.sha256:
                return decision
    return None


def _winner(decision: Json) -> str | None:
    winner = decision.get("winner") if isinstance(decision, dict) else None
    return winner.get("sha256") if isinstance(winner, dict) else None
