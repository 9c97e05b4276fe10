"""`refrain cycle schedule`: what the chart's CronJob runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click

from controller.cli.place import Place, with_place
from jobs.contracts.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from controller.api import ApiError

_PLACE = re.compile(r"\{([A-Za-z_]+)\}")
_NAME = ("metadata", "name")
_OF_JOB = re.compile(r".+-([0-9]{8,10})")
"""A CronJob's Job ends with its scheduled time in minutes since 1970, as the CronJob controller names it."""


@click.command()
@click.argument("template", type=click.Path(path_type=Path, allow_dash=True), metavar="TEMPLATE")
@click.option("--at", metavar="TIME", help="The scheduled time: 2026-11-23T03:00.  [default: JOB_NAME's]")
@click.option(
    "--job-name",
    envvar="JOB_NAME",
    show_envvar=True,
    metavar="NAME",
    help="The CronJob's Job, whose name ends with its scheduled minute.",
)
@click.option("--time-zone", default="Etc/UTC", show_default=True, metavar="ZONE", help="The CronJob's own.")
@click.option("--dry-run", is_flag=True, help="Let the cluster check it, and create nothing.")
@with_place
def schedule(
    *, place: Place, template: Path, at: str | None, job_name: str | None, time_zone: str, dry_run: bool
) -> None:
    """Create the cycle of a scheduled minute from a template, as the chart's CronJob does.

    The template is a cycle in whose texts stand {date} (2026-11-23), {time} (0300), {week} (2026-W48, as ISO 8601
    counts them) and {last_week} (2026-W47). All go by the scheduled minute, so that a pod which is run again means the
    same cycle, and finds it there. A name in which none of them stands gets {date}-{time} behind it.

    \b
      refrain cycle schedule template.yaml --at 2026-11-23T03:00 --time-zone Europe/Berlin --dry-run
    """
    from controller.api import ApiError
    from controller.cli.creating import sent

    moment = scheduled_at(at, job_name, zone_of(time_zone))
    document = sent(template, fill=lambda value: filled(value, words_of(moment), where=str(template)))
    name = document["metadata"]["name"]
    with place.cluster(document["metadata"].get("namespace")) as cluster:
        said = "would be created (dry run)" if dry_run else "created"
        try:
            cluster.create_cycle(document, dry_run=dry_run)
        except ApiError as error:
            if not _is_there(error):
                raise
            said = "is there already: nothing to do"
    click.echo(f"{name}: {said} in namespace {cluster.namespace}, for {moment:%Y-%m-%d %H:%M %Z}")


def _is_there(error: ApiError) -> bool:
    return error.status == 409 and error.reason == "AlreadyExists"


def zone_of(name: str) -> ZoneInfo:
    """The time zone of that name; UsageError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        hint = "a name of the IANA database: Europe/Berlin, Etc/UTC"
        raise UsageError(f"no such time zone: {name}", where="--time-zone", hint=hint) from error


def scheduled_at(at: str | None, job_name: str | None, zone: ZoneInfo) -> datetime:
    """The scheduled minute in that zone, by what was said or by the Job's name; UsageError."""
    if at is not None:
        try:
            said = datetime.fromisoformat(at)
        except ValueError as error:
            raise UsageError(f"not a time: {at}", where="--at", hint="write 2026-11-23T03:00") from error
        return said.astimezone(zone) if said.tzinfo else said.replace(tzinfo=zone)
    found = _OF_JOB.fullmatch(job_name or "")
    if found is None:
        hint = "run it in a CronJob's Job, whose name ends with a minute, or give --at 2026-11-23T03:00"
        raise UsageError(f"no scheduled minute in the Job's name {job_name!r}", where="--job-name", hint=hint)
    return datetime.fromtimestamp(int(found[1]) * 60, UTC).astimezone(zone)


def words_of(moment: datetime) -> dict[str, str]:
    """What may stand in a template, at that moment of its own zone."""
    return {
        "date": f"{moment:%Y-%m-%d}",
        "time": f"{moment:%H%M}",
        "week": f"{moment:%G-W%V}",
        "last_week": f"{moment - timedelta(weeks=1):%G-W%V}",
    }


def filled(document: Any, words: Mapping[str, str], *, where: str) -> Any:
    """A template's value with the words in all its texts; the name in lower case, and never the template's own.

    Raises ConfigError for a word that there is not.
    """
    return _filled(document, words, (), where)


def _filled(value: Any, words: Mapping[str, str], location: tuple[str, ...], where: str) -> Any:
    if isinstance(value, dict):
        return {key: _filled(one, words, (*location, str(key)), where) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, words, (*location, str(index)), where) for index, one in enumerate(value)]
    if not isinstance(value, str):
        return value
    if location == _NAME and not _PLACE.search(value):
        value += "-{date}-{time}"
    said = _PLACE.sub(lambda found: _word(found[1], words, f"{where}: {'.'.join(location)}"), value)
    return said.lower() if location == _NAME else said


def _word(name: str, words: Mapping[str, str], where: str) -> str:
    if name not in words:
        hint = f"there are {', '.join(f'{{{one}}}' for one in words)}"
        raise ConfigError(f"no such word: {{{name}}}", where=where, hint=hint)
    return words[name]
