"""`refrain cycle suspend`, `resume`, `retry`, `approve` and `delete`: what a person decides about a cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from controller.cli.place import NAME, YES, Place, with_place
from jobs.contracts.errors import UsageError

if TYPE_CHECKING:
    from controller.cycles import Cycle


@click.command()
@NAME
@with_place
def suspend(*, place: Place, name: str) -> None:
    """Stop what runs, which saves; `resume` goes on from there.

    Later cycles of the archive wait with it.
    """
    _set_suspend(place, name, suspend=True)


@click.command()
@NAME
@with_place
def resume(*, place: Place, name: str) -> None:
    """Go on with a suspended cycle."""
    _set_suspend(place, name, suspend=False)


def _set_suspend(place: Place, name: str, *, suspend: bool) -> None:
    from controller.objects import PLURAL

    with place.cluster() as cluster:
        cycle = cluster.cycle(name)
        if cycle.has_ended and suspend:
            raise UsageError(f"{name} has ended as {cycle.status.state}: there is nothing to suspend")
        is_suspended = bool((cycle.raw.get("spec") or {}).get("suspend"))
        if is_suspended == suspend:
            click.echo(f"{name}: {'is suspended already' if suspend else 'is not suspended'}")
            return
        cluster.merge(PLURAL, name, {"spec": {"suspend": suspend}})
    done = "suspended; what runs saves and stops" if suspend else "resumed; it goes on when its turn comes"
    click.echo(f"{name}: {done}")


@click.command()
@NAME
@with_place
def retry(*, place: Place, name: str) -> None:
    """Go on from the stage that failed; what has succeeded is kept."""
    import secrets
    from datetime import UTC, datetime

    with place.cluster() as cluster:
        from controller.objects import PLURAL, RETRY

        cycle = cluster.cycle(name)
        if cycle.status.state != "Failed":
            raise UsageError(f"{name} is {cycle.status.state}: nothing has failed")
        value = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        cluster.merge(PLURAL, name, {"metadata": {"annotations": {RETRY: value}}})
    entry = cycle.entry
    click.echo(f"{name}: goes on from {entry.name if entry else 'the beginning'} when its turn comes ({RETRY}={value})")
    if (cycle.raw.get("spec") or {}).get("suspend"):
        click.echo(f"{name} is suspended: refrain cycle resume {name}", err=True)


@click.command()
@NAME
@click.argument("sha256", metavar="[SHA256]", required=False)
@YES
@with_place
def approve(*, place: Place, name: str, sha256: str | None, yes: bool) -> None:
    """Let the candidate of a cycle go into service.

    It is for cycles with `promotion.mode: Manual`. With SHA256, only where that is the candidate's digest.
    """
    with place.cluster() as cluster:
        from controller.objects import PLURAL

        cycle = cluster.cycle(name)
        digest = _candidate(cycle, sha256)
        if cycle.spec is not None and cycle.spec.promotion.approve == digest:
            click.echo(f"{name}: {digest} is approved already")
            return
        _show_candidate(cycle)
        if not yes:
            click.confirm("Let it go into service?", abort=True, err=True)
        cluster.merge(PLURAL, name, {"spec": {"promotion": {"approve": digest}}})
    click.echo(f"{name}: {digest} is approved")


def _candidate(cycle: Cycle, sha256: str | None) -> str:
    """The digest to approve. UsageError where nothing waits for it, or another is meant."""
    status, name = cycle.status, cycle.name
    if cycle.has_ended:
        raise UsageError(f"{name} has ended as {status.state}: there is nothing to approve")
    if cycle.spec is not None and cycle.spec.promotion.mode == "Automatic":
        raise UsageError(f"{name} needs no approval: its promotion.mode is Automatic")
    if status.state != "AwaitingApproval" or status.candidate is None or not status.candidate.sha256:
        at_stage = f" at {status.stage}" if status.stage else ""
        hint = f"refrain cycle watch {name} follows it until then"
        raise UsageError(f"{name} has no candidate yet: it is {status.state}{at_stage}", hint=hint)
    if sha256 is not None and sha256.lower() != status.candidate.sha256:
        hint = f"refrain cycle show {name} has its scores; nothing was approved"
        raise UsageError(f"the candidate of {name} is {status.candidate.sha256}, not {sha256}", hint=hint)
    return status.candidate.sha256


def _show_candidate(cycle: Cycle) -> None:
    from controller.cli.told import adapter_words, decision_words

    click.echo(f"candidate  {adapter_words(cycle.status.candidate)}", err=True)
    click.echo(f"in service {adapter_words(cycle.status.incumbent) or 'the bare base model'}", err=True)
    click.echo(f"decision   {decision_words(cycle)}", err=True)


@click.command()
@NAME
@YES
@with_place
def delete(*, place: Place, name: str, yes: bool) -> None:
    """Delete a cycle, with what runs of it; the store stays as it is."""
    with place.cluster() as cluster:
        from controller.cli.told import state_words
        from controller.objects import PLURAL

        cycle = cluster.cycle(name)
        if not yes:
            click.confirm(f"{name} is {state_words(cycle)}. Delete it?", abort=True, err=True)
        cluster.delete(PLURAL, name, cycle.uid)
    store = cycle.spec.archive_url if cycle.spec else "the store"
    click.echo(f"{name}: deleted; what is in {store} stays as it is")
