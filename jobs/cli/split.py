"""`refrain split`."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import click

from jobs.cli import options
from jobs.contracts.errors import UsageError
from jobs.contracts.words import counted


def _ratios(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(value.replace(",", ":").replace("/", ":").split(":"))


_STRIPPED = ("signatures", "footers", "disclaimers")


@click.command()
@click.argument("files", nargs=-1, type=options.PATH, metavar="[INPUT [TRAIN VAL TEST]]")
@click.option(
    "-i", "--input", "inputs", type=options.PATH, multiple=True, help="Parsed mail, a file or a folder; repeatable."
)
@click.option(
    "-m",
    "--assignments",
    type=options.Place(path_type=Path, dir_okay=False),
    default=Path("assignments.json"),
    show_default=True,
    help="The assignments; their log stands beside them, in a folder named after them.",
)
@click.option(
    "-o",
    "--output",
    type=options.Place(path_type=Path, file_okay=False),
    help="Folder for the decoded records of each split.  [default: splits beside the assignments]",
)
@click.option(
    "--incremental", is_flag=True, help="Add new mail to assignments that are there already; with --store it always is."
)
@click.option(
    "-s",
    "--seed",
    type=int,
    envvar="RANDOM_SEED",
    show_envvar=True,
    help="Seed of the split.  [default: the archive's, else 42]",
)
@click.option(
    "--ratios",
    callback=_ratios,
    metavar="TRAIN:VAL:TEST",
    help="Shares of the splits.  [default: the archive's, else 80:10:10]",
)
@click.option(
    "--window-size",
    type=click.IntRange(1),
    help="Messages in a chunk at most.  [default: the archive's, else no limit]",
)
@click.option(
    "--window-overlap",
    type=click.IntRange(0),
    help="Messages that a chunk repeats of the one before.  [default: the archive's, else 0]",
)
@click.option(
    "--max-tokens", type=click.IntRange(16), help="Tokens in a chunk at most.  [default: the archive's, else 2048]"
)
@click.option(
    "--tokenizer",
    metavar="NAME",
    help="Of the base model: a tokenizer.json, its folder, org/model@COMMIT, or whitespace.  [default: whitespace]",
)
@click.option(
    "--window-period",
    type=click.Choice(["week", "month"]),
    help="Give each week or month of a first import's mail a window of its own; a later import is one window.",
)
@click.option(
    "--quotes",
    type=click.Choice(["in-thread", "all", "none"]),
    help="in-thread drops quotes of mail that is in the archive.  [default: the archive's, else in-thread]",
)
@click.option(
    "--keep",
    multiple=True,
    type=click.Choice(_STRIPPED),
    help="Keep what is stripped by default; repeatable.",
)
@click.option(
    "--shard-size", type=click.IntRange(1), help="Write numbered shards of so many records: train-00001.json …"
)
@options.workers
@options.store
@options.cycle
@options.again
def command(
    *,
    files: tuple[Path, ...],
    inputs: tuple[Path, ...],
    assignments: Path,
    output: Path | None,
    keep: tuple[str, ...],
    shard_size: int | None,
    store: str | None,
    cycle: str,
    again: bool,
    **flags: Any,
) -> None:
    """Thread the mail and split it for ever.

    Reads what `refrain parse` wrote, joins messages into threads, gives each new thread to train,
    val or test by a seeded hash, and cuts what is new into chunks. Only adds: a second run over
    the same mail changes nothing.

    \b
      refrain split -i messages.jsonl -m assignments.json -o splits/ --incremental
      refrain split messages.jsonl train.json val.json test.json
      refrain split --store s3://bucket/archive --cycle 2019-w40

    Beside assignments.json stand chunks.json (texts), length_metadata.json (tokens and length
    buckets) and assignments.archive/, the log itself, of which they are exports.
    """
    from jobs.mail.decode import TextOptions
    from jobs.stages.split import Config

    text = TextOptions(**{f"strip_{name}": name not in keep for name in _STRIPPED}) if keep else None
    config = Config(text=text, **flags)
    begun = time.monotonic()
    if options.is_store_alone(store, "files", "inputs", "assignments", "output", "shard_size"):
        config = dataclasses.replace(config, incremental=True)  # cycles of an archive are there to add to it
        _tell(options.in_store("split", config, store or "", cycle, again=again), begun)
        return
    from jobs.stages.split import split_files

    if len(files) not in {0, 1, 4}:
        raise UsageError(f"{len(files)} files", hint="give INPUT, or INPUT TRAIN VAL TEST")
    sources = [*inputs, *files[:1]]
    if not sources:
        raise UsageError("no input", hint="give -i messages.jsonl")
    result = split_files(config, sources, assignments, output=output, named=files[1:], shard_size=shard_size)
    _tell(result, begun)


def _excluded(number: int) -> str:
    return counted(number, "message or thread of val and test", "messages or threads of val and test")


def _tell(result: dict[str, Any], begun: float) -> None:
    counts = result["num_messages"], result["num_chunks"]
    newest = "none yet" if result["window_idx"] < 0 else result["window_idx"]
    lines = [
        *result.get("notes", ()),
        f"{counted(result['num_mails'], 'mail')}, {result['num_in_archive_or_twice']:,} of them there already or twice",
        f"{counted(result['num_new'], 'new mail')} in {counted(result['num_threads'], 'thread')}",
        f"{counted(result['num_windows'], 'new window')}; the newest window_idx is {newest}",
        f"{'':<10}{'messages':>12}{'chunks':>12}",
        *(f"{split:<10}{counts[0][split]:>12,}{counts[1][split]:>12,}" for split in counts[0]),
        f"{counted(result['num_joins'], 'mail')} joined two known threads",
        f"{_excluded(result['num_exclusions'])} kept out of the scores: near-copies of train mail, or joined with it",
        f"{time.monotonic() - begun:.1f} s",
    ]
    click.echo("\n".join(lines), err=True)
