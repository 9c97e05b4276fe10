"""`refrain show`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.cli import options
from jobs.contracts.errors import MissingInputError
from jobs.contracts.words import counted

if TYPE_CHECKING:
    from jobs.assignments.archive import Archive
    from jobs.contracts.records import Json
    from jobs.intake.trace import ThreadTrace, Trace
    from jobs.local.exposed import Exposure


@click.command()
@click.argument("name", metavar="MESSAGE-ID|THREAD-ID|CHUNK-ID")
@click.option(
    "-m",
    "--assignments",
    type=options.Place(path_type=Path, dir_okay=False),
    default=Path("assignments.json"),
    show_default=True,
    help="The assignments whose archive to look into.",
)
@options.store
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(*, name: str, assignments: Path, store: str | None, as_json: bool) -> None:
    """Say where a mail went, and why; or print a chunk.

    A mail is named by its Message-ID or by the digest of it that stands in the log and in
    exclusions.json. Of a thread, its chunks and messages are listed. Of a mail, so are the adapters that were
    trained on it or went on from such a one, and what a rollback brings back that has not seen it.

    \b
      refrain show '<20190701.1@example.org>'
      refrain show thread_0123456789abcdef01234567_window_0 --store s3://bucket/archive
    """
    import orjson

    from jobs.intake import trace

    options.is_store_alone(store, "assignments")
    archive = _archive(assignments, store)
    if "_window_" in name:
        chunk = trace.find_chunk(archive, name)
        click.echo(orjson.dumps(chunk, option=orjson.OPT_INDENT_2) if as_json else _chunk_text(chunk))
        return
    if "@" not in name and (thread := trace.trace_thread(archive, name)) is not None:
        click.echo(orjson.dumps(thread, option=orjson.OPT_INDENT_2) if as_json else _thread_text(thread))
        return
    from jobs.local.exposed import exposure_of

    found = trace.trace_message(archive, name)
    exposure = exposure_of(archive.store, found.digest)
    if as_json:
        click.echo(orjson.dumps(asdict(found) | asdict(exposure), option=orjson.OPT_INDENT_2))
    else:
        click.echo(_trace_text(found, exposure))


def _archive(assignments: Path, store: str | None) -> Archive:
    from jobs.assignments.archive import Archive
    from jobs.contracts.store import StoreOptions
    from jobs.intake.exports import archive_folder

    if store:
        return Archive.open(store, StoreOptions.from_environment(), read_only=True)
    folder = archive_folder(assignments)
    if not folder.is_dir():
        raise MissingInputError(
            "there is no archive beside these assignments", where=str(folder), hint="name it with -m or --store"
        )
    return Archive.open(str(folder), read_only=True)


def _chunk_text(chunk: Json) -> str:
    rows = [
        ("chunk", chunk["chunk_id"]),
        ("split", chunk["split"]),
        ("window", chunk["window_idx"]),
        ("sender", chunk["sender"]),
        ("tokens", f"{chunk['num_tokens']:,}, of them {chunk['num_target_tokens']:,} targets"),
    ]
    for message in chunk["messages"]:
        part = f", part {message['part'] + 1} of {message['num_parts']}" if message["num_parts"] > 1 else ""
        role = "context" if message["context"] else "target"
        rows.append((role, f"{message['message_id']} ({message['num_tokens']:,} tokens{part})"))
    return f"{_table(rows)}\n\n{chunk['text']}"


def _thread_text(thread: ThreadTrace) -> str:
    rows = [("thread", thread.thread_id), ("split", thread.split)]
    rows += [("chunk", f"{name} of window {window_idx}") for name, window_idx in thread.chunks.items()]
    rows += [("message", message_id) for message_id in thread.messages]
    return _table(rows)


def _trace_text(trace: Trace, exposure: Exposure) -> str:
    from jobs.local.exposed import exposure_rows

    mail = trace.mail or {}
    rows = [("message", trace.message_id)]
    rows += [(name, str(mail[name])) for name in ("sender", "date", "subject") if name in mail]
    if mail.get("flags"):
        rows.append(("flags", ", ".join(mail["flags"])))
    rows += [
        ("thread", f"{trace.thread_id}, {counted(trace.thread_chunks, 'chunk')}"),
        ("split", f"{trace.split}: {trace.why}"),
        ("window", str(trace.window_idx)),
    ]
    rows += [("target in", chunk_id) for chunk_id in trace.targets]
    rows += [("note", note) for note in trace.notes]
    if not mail:
        rows.append(("note", "its text is not in the archive"))
    rows += exposure_rows(exposure)
    return _table(rows)


def _table(rows: list[tuple[str, object]] | list[tuple[str, str]]) -> str:
    return "\n".join(f"{name:<10}{value}" for name, value in rows)
