"""`--termination-log`: a stage tells its result, or why it failed, in a file, as a pod does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from jobs.cli import error_told, options
from jobs.contracts.termination import encode_error, encode_result

option: options.Decorator = click.option(
    "--termination-log",
    type=options.Place(path_type=Path),
    metavar="PATH",
    help="Write the stage's result, or its error, there as JSON of at most 4,096 bytes.",
)


@contextmanager
def telling(path: Path | None, stage: str, attempt: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Takes the stage's result, and writes it at the block's end; of a block that fails, the error instead.

    The file is written in place, for a kubelet has mounted it; of a process that is killed it says nothing.
    That it cannot be written is told, and changes nothing else.
    """
    if path is None:
        yield lambda _result: None
        return
    results: list[Mapping[str, Any]] = []
    _write(path, b"")
    try:
        yield results.append
        for result in results[-1:]:
            _write(path, encode_result(stage, attempt, result))
    except BaseException as error:
        told = error_told(error)
        is_defect = isinstance(error, Exception) and not isinstance(error, BrokenPipeError)
        if told is not None or is_defect:
            _write(path, encode_error(stage, attempt, told or error))
        raise


def _write(path: Path, message: bytes) -> None:
    try:
        path.write_bytes(message)
    except OSError as error:
        click.echo(f"refrain: note: {path} cannot be written: {error.strerror}", err=True)
