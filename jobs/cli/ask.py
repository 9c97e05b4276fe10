"""`refrain ask`: a question answered from the archive, with the mails that the answer drew on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from jobs.cli import options
from jobs.cli.harmless import harmless, one_line
from jobs.contracts.errors import UsageError
from jobs.retrieval.query import MODES

_SNIPPET_CHARS = 240


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
@options.answering
@click.option(
    "--max-new-tokens", type=click.IntRange(1, 65_536), default=256, show_default=True, help="Length of the answer."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the whole text of each source.")
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
    from jobs.serving.assistant import answer_once
    from jobs.serving.prompting import Asked
    from jobs.serving.wanted import Wanted

    options.is_store_alone(store, "vector_db")
    options.is_bare(flags)
    asked = Asked(
        text=" ".join(question),
        before=_date(flags.pop("before")),
        **{name: flags.pop(name) for name in ("top_k", "mode", "persona", "max_new_tokens")},
    )
    sources_only = flags.pop("sources_only")
    answer = answer_once(Wanted(store_url=store, vector_db=vector_db, **flags), asked, sources_only=sources_only)
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
            f"  [{number}] {date}  {one_line(passage.sender)}: {one_line(passage.subject)}",
            f"      <{one_line(passage.message_id)}>  score {hit.score:.4f} ({ranks})",
            f"      {_snippet(passage.text)}",
        ]
    return "\n".join(lines)


def _as_json(asked: Any, answer: Any) -> str:
    """In ASCII: what else a mail holds is escaped, and reaches no terminal."""
    from jobs.serving.prompting import sources_body

    sources = sources_body(answer.sources)
    value = {"question": asked.text, "answer": answer.text, "model": answer.model or None, "sources": sources}
    return json.dumps(value | {"notes": answer.notes}, indent=2).replace("\x7f", "\\u007f")


def _snippet(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _SNIPPET_CHARS else f"{line[:_SNIPPET_CHARS].rstrip()} …"
