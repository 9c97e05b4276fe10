"""`refrain log`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.cli import options
from jobs.contracts.errors import InputError, IntegrityError, MissingInputError, UsageError

if TYPE_CHECKING:
    from jobs.assignments.archive import Archive
    from jobs.assignments.segment import Head
    from jobs.assignments.verify import Report

_ARCHIVE = click.argument("archive", type=options.Place(), metavar="ARCHIVE")


@click.group()
def command() -> None:
    """Check and export the assignments log.

    ARCHIVE is a URL (s3://bucket/archive, file:///folder/archive), a folder, or an
    assignments.json that has its archive beside it.
    """


@command.command()
@_ARCHIVE
@click.option("--deep", is_flag=True, help="Read every data file too and compare its digest.")
@click.option("--head", metavar="SEQ:SHA256", help="A head that was recorded before, as `refrain log head` prints it.")
def verify(*, archive: str, deep: bool, head: str | None) -> None:
    """Check that the log is whole and unchanged.

    Every segment holds the digest of the one before it, so a segment that is damaged, missing or
    rewritten is named exactly; a change to the newest one only where --head or a checkpoint tells
    of it. Exits with 70 where something is wrong.
    """
    from jobs.assignments.verify import verify as verify_log

    report = verify_log(_open(archive), deep=deep, head=_parsed_head(head))
    if not report.num_segments and not report.problems:
        raise _no_log(archive)
    _print(report)
    if report.problems:
        raise IntegrityError(
            f"the log is not what was committed: {len(report.problems)} problem(s), listed above",
            where=archive,
            hint="bring the objects that are named back from a copy of the store",
        )


@command.command()
@_ARCHIVE
@click.option(
    "-o", "--output", type=options.PATH, default=Path("-"), show_default=True, help="File to write; `-` prints it."
)
def export(*, archive: str, output: Path) -> None:
    """Write the log as assignments.json.

    A map from chunk id to split, thread_id and window_idx.
    """
    from jobs.assignments.export import assignment_entries
    from jobs.files import write_json_object

    table = _open(archive).table()
    if not len(table):
        raise _no_log(archive)
    write_json_object(output, assignment_entries(table))


@command.command()
@_ARCHIVE
def head(*, archive: str) -> None:
    """Print the newest segment's number and digest.

    Keep them elsewhere: `refrain log verify --head` then notices a log that was cut short or rewritten.
    """
    found = _open(archive).log.head()
    if found.seq < 0:
        raise _no_log(archive)
    click.echo(str(found))


def _open(location: str) -> Archive:
    from jobs.assignments.archive import Archive
    from jobs.contracts.store import StoreOptions

    if "://" not in location and location.endswith(".json"):
        location = str(Path(location).with_suffix(".archive"))
    if Path(location).is_file():
        raise InputError("a file, not an archive", where=location, hint="name a URL, a folder or an assignments.json")
    return Archive.open(location, StoreOptions.from_environment(), read_only=True)


def _no_log(location: str) -> MissingInputError:
    return MissingInputError(
        "there is no log here, or an empty one", where=location, hint="check the URL" if "://" in location else ""
    )


def _parsed_head(text: str | None) -> Head | None:
    from jobs.assignments.segment import Head

    if text is None:
        return None
    match = re.fullmatch(r"(\d+):([0-9a-f]{64})", text)
    if match is None:
        raise UsageError(f"not a head: {text}", hint="write it as `refrain log head` prints it")
    return Head(int(match[1]), match[2])


def _print(report: Report) -> None:
    click.echo(f"head      {report.head if report.head.seq >= 0 else 'not known'}")
    click.echo(f"segments  {report.num_segments:,}")
    click.echo(f"chunks    {report.num_rows:,} of {report.num_threads:,} threads")
    click.echo(f"files     {report.num_data_files:,}")
    for note in report.notes:
        click.echo(f"note      {note}")
    for problem in report.problems:
        click.echo(f"PROBLEM   {problem.key}: {problem.what}")
    if not report.problems:
        click.echo("the log is whole")
