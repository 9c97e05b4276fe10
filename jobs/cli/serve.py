"""`refrain serve`: answers over HTTP, as OpenAI's API gives them."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click

from jobs.cli import options

_ADAPTER_VARIABLE = "REFRAIN_ADAPTER"


@click.command(name="serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 for all networks.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8000, show_default=True, help="0: any that is free.")
@options.answering
@click.option(
    "--served",
    default="",
    envvar=_ADAPTER_VARIABLE,
    show_envvar=True,
    metavar="KEY@DIGEST",
    help="With --store: an adapter in it; @ for the bare base model.  [default: the newest production record]",
)
@click.option(
    "--served-file",
    type=options.Place(path_type=Path),
    help="File with KEY@DIGEST, as `refrain vllm` writes it; it goes before REFRAIN_ADAPTER.",
)
@click.option(
    "--precision", type=click.Choice(["bf16", "fp16", "fp32"]), default="bf16", show_default=True, help="On a GPU."
)
@click.option("--vllm", metavar="URL", help="A vLLM that has the model, started with what `refrain vllm` wrote.")
@click.option(
    "--api-keys-file", type=options.Place(path_type=Path), help="Keys of clients, one a line.  [default: anyone]"
)
@click.option(
    "--swap-token-file",
    type=options.Place(path_type=Path),
    help="Token of who may change the adapter.  [default: nobody]",
)
@click.option("--question", help="What an adapter has to answer before it is in service.")
@click.option("--max-body-bytes", type=click.IntRange(1), default=1 << 20, show_default=True, help="Of a request.")
@click.option("--max-prompt-tokens", type=click.IntRange(1), help="Sources included.  [default: what the model reads]")
@click.option("--max-new-tokens", type=click.IntRange(1), default=2048, show_default=True, help="Of an answer.")
@click.option(
    "--max-active", type=click.IntRange(1), default=32, show_default=True, help="Answers that grow at a time."
)
@click.option(
    "--max-waiting",
    type=click.IntRange(0),
    default=64,
    show_default=True,
    help="Answers that may wait; who wants more gets 429.",
)
@click.option(
    "--request-seconds", type=options.Number(0.1), default=300.0, show_default=True, help="How long one may take."
)
@click.option(
    "--refresh-seconds",
    type=options.Number(0),
    default=60.0,
    show_default=True,
    help="Between two looks for a newer index, for erased mail and for a newer production record; 0: never.",
)
@click.option(
    "--drain-seconds",
    type=options.Number(0),
    default=0.0,
    show_default=True,
    help="After SIGTERM: how long new requests are still taken, not ready any more.",
)
@click.option(
    "--grace-seconds",
    type=options.Number(1),
    default=60.0,
    show_default=True,
    help="After that: how long answers under way may take.",
)
@click.option("--log-format", type=click.Choice(["json", "text"]), default="text", show_default=True)
def command(
    *, store: str | None, vector_db: Path | None, served: str, served_file: Path | None, log_format: str, **flags: Any
) -> None:
    """Answer questions over HTTP, as OpenAI's API does, with the mails that each answer drew on.

    \b
      refrain serve --store file:///archive
      curl localhost:8000/v1/chat/completions \\
        -d '{"messages": [{"role": "user", "content": "who broke the code?"}]}'

    It starts with the adapter in service, and goes over to a newer one while it answers. What mails say is text to
    quote from, and nothing in it is obeyed. SIGTERM lets answers under way end, and exits 0.
    """
    from jobs.serving.gate import Limits
    from jobs.serving.server import ServerSettings, serve
    from jobs.serving.wanted import Wanted

    options.is_store_alone(store, "vector_db")
    options.is_bare(flags)
    _log(as_json=log_format == "json")
    flags["question"] = flags["question"] or ServerSettings().question
    wanted, settings, limits = (
        {name: flags.pop(name) for name in kind.__dataclass_fields__ if name in flags}
        for kind in (Wanted, ServerSettings, Limits)
    )
    if served_file is not None:
        options.require_alone(served_file, f"a file ({served_file})", ("served",))
        served = _served_in(served_file)
    wanted |= {"store_url": store, "vector_db": vector_db, "served": served}
    serve(Wanted(**wanted), ServerSettings(**settings), Limits(**limits))


def _served_in(file: Path) -> str:
    """The KEY@DIGEST that a file holds."""
    from jobs.contracts.errors import InputError
    from jobs.files import input_error

    try:
        served = file.read_text().strip()
    except OSError as error:
        raise input_error(file, error) from error
    except UnicodeDecodeError:
        served = ""
    if "@" not in served:
        raise InputError("no KEY@DIGEST", where=str(file), hint="have `refrain vllm` write it")
    return served


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        import orjson

        value = {"time": self.formatTime(record), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            value["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(value).decode()


def _log(*, as_json: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if as_json else logging.Formatter("refrain: %(message)s"))
    logger = logging.getLogger("refrain")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
