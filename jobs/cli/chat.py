"""`refrain chat`: a conversation with the archive, in this process or with a server."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.cli import options
from jobs.cli.harmless import harmless, one_line

if TYPE_CHECKING:
    from jobs.serving.talking import Talk

_HELP = "/sources shows the mails of the last answer, /new begins anew, /quit ends (so does Ctrl-D)."


@click.command(name="chat")
@options.answering
@click.option("--url", metavar="URL", help="Talk with a server, http://host:8000, instead of loading a model here.")
@click.option(
    "--api-key", envvar="REFRAIN_API_KEY", show_envvar=True, metavar="KEY", help="With --url: what it lets in with."
)
@click.option("--top-k", type=click.IntRange(0, 50), default=5, show_default=True, help="Passages to draw on.")
@click.option("--persona", default="", metavar="ADDRESS", help="Who answers.  [default: who wrote the best source]")
@click.option(
    "--max-new-tokens", type=click.IntRange(1, 65_536), default=256, show_default=True, help="Length of an answer."
)
def command(
    *,
    url: str | None,
    api_key: str | None,
    store: str | None,
    vector_db: Path | None,
    top_k: int,
    persona: str,
    max_new_tokens: int,
    **flags: Any,
) -> None:
    """Talk with the archive: each line is a question, and the conversation so far is part of it.

    \b
      refrain chat --store file:///archive
      refrain chat --url http://localhost:8000

    /sources shows the mails of the last answer, /new begins anew, /quit ends.
    """
    from jobs.serving.talking import LocalTalk, RemoteTalk, Way
    from jobs.serving.wanted import Wanted

    way = Way(top_k=top_k, persona=persona, max_new_tokens=max_new_tokens)
    if url:
        options.is_url_alone(
            url, "store", "base", "adapter", "vector_db", "base_only", "cycle", "embedding_model", "device"
        )
        _converse(RemoteTalk(url, api_key, way))
        return
    options.is_store_alone(store, "vector_db")
    options.is_bare(flags)
    with LocalTalk(Wanted(store_url=store, vector_db=vector_db, **flags), way) as talk:
        for note in talk.notes:
            click.echo(f"refrain: note: {harmless(note)}", err=True)
        _converse(talk)


def _converse(talk: Talk) -> None:
    is_person = sys.stdin.isatty()
    if is_person:
        click.echo(_HELP, err=True)
    for line in _lines(is_person=is_person):
        if line == "/quit":
            return
        if line == "/new":
            talk.begin_anew()
        elif line == "/sources":
            _show_sources(talk.sources)
        elif line.startswith("/"):
            click.echo(f"no such command: {harmless(line)}. {_HELP}", err=True)
        elif line:
            _show(talk.say(line))


def _lines(*, is_person: bool) -> Iterator[str]:
    while True:
        try:
            line = input("> ") if is_person else sys.stdin.readline()
        except EOFError:
            return
        if not is_person and not line:
            return
        yield line.strip()


def _show(pieces: Iterable[str]) -> None:
    for piece in pieces:
        click.echo(harmless(piece), nl=False)
        sys.stdout.flush()
    click.echo()


def _show_sources(sources: list[dict[str, Any]]) -> None:
    if not sources:
        click.echo("(no mail)")
    for number, one in enumerate(sources, 1):
        date = f"{one['date'][:10]} {one['date'][11:16]}"
        click.echo(f"  [{number}] {date}  {one_line(one['sender'])}: {one_line(one['subject'])}")
        click.echo(f"      <{one_line(one['message_id'])}>")
