"""What `window`, `rehearse` and `sample` have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from jobs.cli.options import PATH, Decorator

window_idx: Decorator = click.option(
    "--window-idx", type=click.IntRange(0), help="The window, W.  [default: the newest]"
)
chunks: Decorator = click.option(
    "--chunks", type=PATH, help="Who wrote each chunk, and its messages.  [default: chunks.json beside it]"
)
length_metadata: Decorator = click.option(
    "--length-metadata", type=PATH, help="Tokens and length bucket.  [default: length_metadata.json beside it]"
)
active_windows: Decorator = click.option(
    "--active-windows",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="The newest windows, which are not rehearsed.",
)


COMPANIONS = {"chunks": "chunks", "lengths": "length_metadata", "exclusions": "exclusions"}
"""Kinds of files beside the assignments, and the flags that name them."""


def named(**paths: Path | None) -> dict[str, list[Path]]:
    """A stage's input paths by kind, those that were named."""
    return {kind: [path] for kind, path in paths.items() if path is not None}


def tell(stage: str, result: Mapping[str, Any]) -> None:
    """Say on standard error what a stage did; what has parts of its own is left to its file."""
    for note in result.get("notes", ()):
        click.echo(f"refrain: note: {note}", err=True)
    counts = (
        f"{name.removeprefix('num_').replace('_', ' ')} {_plain(value)}"
        for name, value in result.items()
        if _is_told(name, value)
    )
    click.echo(f"{stage}: {', '.join(counts)}", err=True)


def _is_told(name: str, value: Any) -> bool:
    return name != "notes" and not isinstance(value, dict)


def _plain(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).lower() if isinstance(value, bool) else str(value)
