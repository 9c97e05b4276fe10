"""`refrain parse`: mail in, raw mail records out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from jobs.cli import options
from jobs.contracts.artifacts import artifact_key
from jobs.contracts.errors import UsageError
from jobs.contracts.words import counted

DEFAULT_OUTPUT = Path("messages.jsonl")
_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class _Size(click.ParamType[int]):
    """A number of bytes: `1000`, `64K`, `64 MiB`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        digits = value.lower().strip().removesuffix("b").removesuffix("i").strip()
        unit = digits[-1:] if digits[-1:] in "kmg" else ""
        number = digits.removesuffix(unit).strip()
        if not (number.isascii() and number.isdigit() and int(number)):
            self.fail(f"{value!r} is not a size: write 1000000, 64MiB or 1G", param, ctx)
        return int(number) * _SIZES[unit]


@click.command("parse")
@click.argument("sources", nargs=-1, metavar="SOURCE...")
@click.option(
    "-o",
    "--output",
    type=options.PATH,
    default=None,
    help="Records: JSON lines, or one array where the name ends in .json; also with .gz or .zst; - is standard "
    "output.  [default: messages.jsonl]",
)
@click.option(
    "--rejects",
    type=options.PATH,
    default=None,
    help="What was not taken, and why.  [default: messages.rejects.jsonl beside messages.jsonl]",
)
@click.option(
    "--mbox-format",
    type=click.Choice(["auto", "mboxo", "mboxrd", "mboxcl", "mboxcl2"]),
    default="auto",
    show_default=True,
    help="Dialect of mbox files; >From is unescaped in mboxrd alone.",
)
@click.option("--include", multiple=True, metavar="RULE", help="Take only mail that matches one of these rules.")
@click.option("--exclude", multiple=True, metavar="RULE", help="Leave out mail that matches one of these rules.")
@click.option(
    "--cursor",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="How far each IMAP folder was read: read where it exists, and written at the end.",
)
@click.option(
    "--imap-ca",
    type=click.Path(exists=True, dir_okay=False),
    envvar="REFRAIN_IMAP_CA",
    show_envvar=True,
    help="Certificates of a private CA that signed the IMAP server's.",
)
@click.option("--max-message-size", type=_Size(), default="64MiB", show_default=True, help="A larger mail is rejected.")
@click.option(
    "--max-header-size", type=_Size(), default="1MiB", show_default=True, help="A mail with more header is rejected."
)
@click.option(
    "--max-header-lines",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    help="A mail with more lines of header is rejected.",
)
@options.workers
@options.store
@options.cycle
@options.again
def command(
    *,
    sources: tuple[str, ...],
    output: Path | None,
    rejects: Path | None,
    mbox_format: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    cursor: Path | None,
    imap_ca: str | None,
    max_message_size: int,
    max_header_size: int,
    max_header_lines: int,
    workers: int | None,
    store: str | None,
    cycle: str,
    again: bool,
) -> None:
    """Read mail into records: one JSON object with the raw mail each.

    \b
    A SOURCE is
      archive.mbox          an mbox in any dialect, or a single mail
      archive.mbox.gz       the same, compressed with gzip or zstd
      folder/               a Maildir, or a folder of .eml, mbox and other files
      -                     standard input
      imaps://user@host/F   new mail of an IMAP folder; * and % match several
      s3://bucket/key       an object of a store

    Records come in the order of the sources' names, whatever the order in which they are named. What is
    no mail, or over a limit, goes to the rejects file with its reason: nothing is dropped silently.

    \b
    A RULE is KIND:PATTERN, where * and ? match anything:
      from:*@notifications.example     to:team@example.org     list:*linux-raid*
      header:Auto-Submitted            header:X-Spam-Flag=yes  subject:*out of office*
      label:Spam (Gmail Takeout, Maildir and IMAP flags)       folder:Archive/*

    The password of an IMAP account comes from REFRAIN_IMAP_PASSWORD or from the file that
    REFRAIN_IMAP_PASSWORD_FILE names; an OAuth 2 token from REFRAIN_IMAP_TOKEN or
    REFRAIN_IMAP_TOKEN_FILE. Never from a flag.
    """
    from jobs.stages import Inputs, Outputs
    from jobs.stages.parse import Config, run

    if not sources and not store:
        raise UsageError("no source of mail was named", hint="see refrain parse --help")
    started = time.monotonic()
    config = Config(
        sources=sources,
        mbox_format=mbox_format,  # type: ignore[arg-type]
        include=include,
        exclude=exclude,
        max_message_bytes=max_message_size,
        max_header_bytes=max_header_size,
        max_header_lines=max_header_lines,
        imap_ca=imap_ca,
        workers=workers,
    )
    if store:
        _refuse_files(store, {"--output": output, "--rejects": rejects, "--cursor": cursor})
        result = options.in_store("parse", config, store, cycle, again=again)
        where = f"see {artifact_key(cycle, 'parse', 'rejects')} in the store"
    else:
        output = output or DEFAULT_OUTPUT
        rejects = rejects or default_rejects(output)
        paths = {"messages": output, "rejects": rejects, "cursor": cursor}
        inputs = Inputs({"cursor": [cursor]} if cursor and cursor.exists() else {})
        result = run(config, inputs, Outputs({kind: path for kind, path in paths.items() if path is not None}))
        where = f"see {rejects}" if rejects else "name a file with --rejects to have them listed"
    _report(result, time.monotonic() - started, where)


def _refuse_files(store: str, given: dict[str, Path | None]) -> None:
    for flag, path in given.items():
        if path is not None:
            raise UsageError(
                f"both a store ({store}) and {flag} are given",
                hint="leave one out; REFRAIN_STORE in the environment counts as --store",
            )


def default_rejects(output: Path) -> Path | None:
    """`messages.rejects.jsonl` beside `messages.jsonl.gz`; None for standard output and devices."""
    if str(output) == "-" or (output.exists() and not output.is_file()):
        return None
    name = output.name
    for suffix in (".gz", ".zst", ".json", ".jsonl", ".ndjson"):
        name = name.removesuffix(suffix)
    return output.with_name(f"{name or output.name}.rejects.jsonl")


def _report(result: dict[str, Any], seconds: float, where: str) -> None:
    """The summary; `where` says where the rejects are."""
    rate = f", {result['num_kept'] / seconds:,.0f} a second" if seconds > 0.5 else ""
    click.echo(f"parse: {counted(result['num_kept'], 'mail')} kept in {seconds:.1f} s{rate}", err=True)
    for reason, count in result["num_rejected"].items():
        click.echo(f"  {count:,} rejected: {reason}", err=True)
    if result["num_rejected"]:
        click.echo(f"  {where}", err=True)
    for note in result.get("notes", ()):
        click.echo(f"  note: {note}", err=True)
    for rule, count in result["num_filtered"].items():
        click.echo(f"  {count:,} left out: {rule}", err=True)
