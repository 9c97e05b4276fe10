"""`refrain ask`: a question answered from the archive, with the mails that the answer drew on."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import click

from jobs.cli import options
from jobs.contracts.errors import UsageError
from jobs.retrieval.query import MODES

_SNIPPET_CHARS = 240
_TURNING = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""Classes of characters that change the direction of writing: a line may look like another."""


@click.command(name="ask")
@click.argument("question", nargs=-1, required=True)
@click.option("--top-k", type=click.IntRange(1, 1000), default=5, show_default=True, help="Passages to draw on.")
@click.option(
    "--before", default="", metavar="DATE", help="Draw on mail earlier than this alone: 2024-05-31, 2024-05 …"
)
@click.option(
    "--search",
    "mode",
    type=click.Choice(MODES),
    default="hybrid",
    show_default=True,
    help="Search by meaning and words together, by meaning alone, or by words alone.",
)
@click.option("--persona", default="", metavar="ADDRESS", help="Who answers.  [default: who wrote the best source]")
@click.option("--sources-only", is_flag=True, help="Show the mails that were found; no model answers.")
@click.option("--base-only", is_flag=True, help="Answer by the bare base model.")
@click.option(
    "--adapter",
    type=options.Place(path_type=Path),
    metavar="PATH",
    help="An adapter: a folder, ours or PEFT's, or step_<n>.safetensors.  [default: the one in service]",
)
@click.option(
    "--base", help="Base model: a name on the hub, a folder, or s3://.  [default: the archive's, or the adapter's]"
)
@click.option("--revision", help="Its commit on the hub.")
@click.option(
    "--vector-db", type=options.Place(path_type=Path), help="Folder of an index.  [default: vector_db, if it is there]"
)
@click.option("--embedding-model", help="Where the index's embedding model is found.  [default: as the index says]")
@click.option(
    "--max-new-tokens", type=click.IntRange(1, 65_536), default=256, show_default=True, help="Length of the answer."
)
@click.option("--device", help="Where to compute: cpu, cuda, mps.  [default: the best there is]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the whole text of each source.")
@options.store
@click.option("--cycle", metavar="NAME", help="With --store: the cycle whose index is searched.  [default: the newest]")
def command(
    *, question: tuple[str, ...], store: str | None, vector_db: Path | None, as_json: bool, **flags: Any
) -> None:
    """Answer a question from the archive, and show the mails that the answer drew on.

    Works with what is there: without a model it shows what was found, without an index the model answers
    from memory. What mails say is text to quote from, and nothing in it is obeyed.

    \b
      refrain ask "who broke the reshape code?" --store file:///archive
      refrain ask "who broke the reshape code?" --vector-db vector_db/ --sources-only
    """
    from jobs.cli.answering import Answerer, Asked, Wanted

    options.is_store_alone(store, "vector_db")
    if flags["base_only"] and flags["adapter"] is not None:
        raise UsageError("both --base-only and --adapter are given", hint="leave one out")
    asked = Asked(
        text=" ".join(question),
        before=_date(flags.pop("before")),
        **{name: flags.pop(name) for name in ("top_k", "mode", "persona", "max_new_tokens")},
    )
    with Answerer(Wanted(store_url=store, vector_db=vector_db, **flags)) as answerer:
        answer = answerer.answer(asked)
    for note in answer.notes:
        click.echo(f"refrain: note: {harmless(note)}", err=True)
    click.echo(_as_json(asked, answer) if as_json else _as_text(answer))


def _date(value: str) -> str:
    """A date, or the beginning of one, as the records have it; UsageError for anything else."""
    pattern = "0000-00-00T00:00:00Z"
    shape = "".join("0" if character.isascii() and character.isdigit() else character for character in value)
    if pattern.startswith(shape) and len(value) in {0, 4, 7, 10, 16, 19, 20}:
        return value
    raise UsageError(
        f"not a date: {value!r}", where="--before", hint="write 2024-05-31, 2024-05 or 2024-05-31T09:30:00Z"
    )


def _as_text(answer: Any) -> str:
    lines = [] if answer.text is None else [harmless(answer.text) or "(the model wrote nothing)", ""]
    if answer.sources:
        lines.append("Sources")
    for number, (hit, passage) in enumerate(answer.sources, 1):
        ranks = ", ".join(f"{name} {rank}" for name, rank in sorted(hit.ranks.items()))
        date = f"{passage.date[:10]} {passage.date[11:16]}"
        lines += [
            f"  [{number}] {date}  {_line(passage.sender)}: {_line(passage.subject)}",
            f"      <{_line(passage.message_id)}>  score {hit.score:.4f} ({ranks})",
            f"      {_snippet(passage.text)}",
        ]
    return "\n".join(lines)


def _as_json(asked: Any, answer: Any) -> str:
    """In ASCII: what else a mail holds is escaped, and reaches no terminal."""
    sources = [
        {
            "message_id": hit.message_id,
            "passage_id": hit.passage_id,
            "sender": passage.sender,
            "date": passage.date,
            "subject": passage.subject,
            "score": hit.score,
            "ranks": hit.ranks,
            "text": passage.text,
        }
        for hit, passage in answer.sources
    ]
    value = {"question": asked.text, "answer": answer.text, "model": answer.model or None, "sources": sources}
    return json.dumps(value | {"notes": answer.notes}, indent=2).replace("\x7f", "\\u007f")


def _snippet(text: str) -> str:
    line = _line(text)
    return line if len(line) <= _SNIPPET_CHARS else f"{line[:_SNIPPET_CHARS].rstrip()} …"


def _line(text: str) -> str:
    return " ".join(harmless(text).split())


def harmless(text: str) -> str:
    """A text that a terminal only shows: what would steer it, or turn the direction of writing, is replaced."""
    if text.isprintable():
        return text
    return "".join("\N{REPLACEMENT CHARACTER}" if _steers(character) else character for character in text)


def _steers(character: str) -> bool:
    if character in "\n\t":
        return False
    return unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} or (
        unicodedata.bidirectional(character) in _TURNING
    )
