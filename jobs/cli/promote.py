"""`refrain promote`: the winner comes into service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.cli import options
from jobs.contracts.errors import UsageError

if TYPE_CHECKING:
    from jobs.contracts.store import Store
    from jobs.production import Production
    from jobs.stages.promote import Config


@click.command(name="promote")
@click.option(
    "--decision",
    type=options.Place(path_type=Path),
    default=Path("decision.json"),
    show_default=True,
    help="On plain files: what select has decided.",
)
@click.option(
    "--checkpoint-dir",
    "--checkpoints-dir",
    type=options.Place(path_type=Path),
    help="On plain files: where the checkpoints lie.",
)
@click.option(
    "-o",
    "--output",
    type=options.Place(path_type=Path),
    help="On plain files: what is in service now, as JSON.  [default: production.json beside the decision]",
)
@click.option(
    "--link",
    type=options.Place(path_type=Path),
    help="A link to what is in service, moved atomically.  "
    "[default: production beside the adapter; .production in a store's folder]",
)
@click.option(
    "--mode",
    type=click.Choice(["Automatic", "Manual"]),
    default="Automatic",
    show_default=True,
    help="Manual promotes what --approve names, and else waits.",
)
@click.option("--approve", metavar="SHA256", help="Digest of the candidate that a person has approved.")
@click.option(
    "--after", metavar="CMD", help="Run when the adapter is in service; REFRAIN_ADAPTER… tell what and where."
)
@click.option(
    "--withhold",
    metavar="REASON: MESSAGE",
    help="Keep the winner out of service after all, and say why: NotPromoted.",
)
@click.option("--rollback", is_flag=True, help="With --store: bring back what was in service before.")
@click.option(
    "--to", type=click.IntRange(0), metavar="SEQ", help="With --rollback: the state of that record; 0: no adapter."
)
@click.option("--history", is_flag=True, help="With --store: what was in service when, and what was kept out.")
@options.store
@options.cycle
@click.option("--attempt", type=click.IntRange(0), help="With --store: whose decision holds.  [default: the newest]")
@options.again
def command(
    *,
    decision: Path,
    checkpoint_dir: Path | None,
    output: Path | None,
    store: str | None,
    cycle: str,
    attempt: int | None,
    again: bool,
    rollback: bool,
    to: int | None,
    history: bool,
    link: Path | None,
    **settings: Any,
) -> None:
    """Put the winner into service, where select has decided so; else say why the incumbent stays.

    In a store each promotion and each rollback is a record of its own, and none is ever changed.

    \b
      refrain promote --store URL --cycle 2025-w27
      refrain promote --store URL --cycle 2025-w27 --withhold "NotReady: it did not load on our GPUs"
      refrain promote --store URL --history
      refrain promote --store URL --rollback
      refrain promote --decision decision.json --checkpoints-dir checkpoints --link production
    """
    from jobs.stages.promote import Config

    _require_sense(rollback=rollback, to=to, history=history, store=store)
    config = Config(link=str(link) if link else None, **settings)
    if options.is_store_alone(store, "decision", "checkpoint_dir", "output"):
        url = store or ""
        if history:
            _show_history(_opened(url, read_only=True))
        elif rollback:
            _roll_back(_opened(url, read_only=False), to, config)
        else:
            newest = _newest_attempt(url, cycle) if attempt is None else attempt
            _tell(options.in_store("promote", config, url, cycle, again=again, attempt=newest))
        return
    from jobs.stages import Inputs, Outputs
    from jobs.stages.promote import run

    paths = {"decision": [decision]} | ({"checkpoints": [checkpoint_dir]} if checkpoint_dir else {})
    _tell(run(config, Inputs(paths), Outputs({"production": output or decision.with_name("production.json")})))


def _require_sense(*, rollback: bool, to: int | None, history: bool, store: str | None) -> None:
    if rollback and history:
        raise UsageError("both --rollback and --history are given", hint="leave one out")
    if to is not None and not rollback:
        raise UsageError("--to is for --rollback")
    if (rollback or history) and not store:
        hint = "name it with --store; on plain files, move the link: refrain promote --decision …"
        raise UsageError("records are kept in a store", hint=hint)


def _opened(url: str, *, read_only: bool) -> Store:
    from jobs.contracts.store import StoreOptions, open_archive, open_store

    environment = StoreOptions.from_environment()
    reading = open_archive(url, environment)  # a mistyped URL must not begin a store
    return reading if read_only else open_store(url, environment)


def _newest_attempt(url: str, cycle: str) -> int:
    """The attempt that the decisions lead to; of those that an earlier run of the cycle has left behind, none."""
    from jobs.contracts.markers import read_marker
    from jobs.runner import require_cycle_name

    require_cycle_name(cycle)
    store, attempt = _opened(url, read_only=True), 0
    decided = read_marker(store, "select", cycle)
    while decided is not None and decided["result"]["outcome"] == "Retrain":
        decided = read_marker(store, "select", cycle, attempt + 1)
        attempt += decided is not None
    return attempt


def _tell(result: dict[str, Any]) -> None:
    for note in result.get("notes", ()):
        _say(f"refrain: note: {note}")
    number = f" (record {result['seq']})" if result["outcome"] == "Promoted" and result.get("seq") else ""
    _say(f"promote: {result['outcome']}{number}: {result['message']}")


def _roll_back(store: Store, to: int | None, config: Config) -> None:
    from jobs.files import scratch_folder
    from jobs.production import records, require_adapter, roll_back, rollback_target
    from jobs.stages.promote import serve

    known = list(records(store))
    target = rollback_target(known, to)
    if target.adapter is not None:
        with scratch_folder("refrain-promote-") as scratch:
            require_adapter(store, target.adapter, scratch)
    record, is_new = roll_back(store, target)
    for note in serve(config, store, record).get("notes", ()):
        _say(f"refrain: note: {note}")
    if not is_new:
        _say(f"promote: {_named(record)} is in service already")
        return
    _say(f"promote: {_named(record)} is in service (record {record.seq})")
    _say(f"{_named(known[-1])} was taken out; `refrain promote --rollback --to {known[-1].seq}` brings it back")


def _named(record: Production) -> str:
    return f"the adapter of cycle {record.cycle} ({record.sha256[:12]}…)" if record.adapter else "the bare base model"


def _show_history(store: Store) -> None:
    """A table of all records, and of the cycles that were kept out; on standard output."""
    from jobs.production import history_table

    lines = list(history_table(store))
    for line in lines:
        click.echo(line)
    if len(lines) == 1:
        _say("promote: no cycle has ended yet: the bare base model is in service")


def _say(text: str) -> None:
    click.echo(text, err=True)
