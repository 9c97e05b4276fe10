"""The scores as a table for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jobs.contracts.records import Json


def table(found: Json) -> str:
    """A line for each adapter, the bare base model and what is in service marked; and the controls."""
    k = found["top_k"]
    columns = {
        "val ppl": "val_perplexity",
        "test ppl": "test_perplexity",
        f"rag@{k}": f"rag_accuracy_at_{k}",
        f"recall@{k}": f"retrieval_recall_at_{k}",
        "fluency": "fluency",
    }
    rows = [["", *columns]]
    for name, entry in _entries(found):
        rows.append([name, *(_plain(entry[field]) for field in columns.values())])
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if not place else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, *_controls(found), ""])


def _entries(found: Json) -> Iterator[tuple[str, Json]]:
    """Everything that was scored, in the order of the table."""
    in_service = "" if found["incumbent"] else ", in service"
    yield f"base model{in_service}", found["base"]
    if found["incumbent"]:
        yield "incumbent, in service", found["incumbent"]
    losses = [entry["val_loss"] for entry in found["checkpoints"]]
    for entry in found["checkpoints"]:
        best = " *" if len(losses) > 1 and entry["val_loss"] == min(losses) else ""
        path = entry["path"]  # a folder's name, which may hold anything
        yield f"{path if path.isprintable() else ascii(path)}{best}", entry


def _controls(found: Json) -> Iterator[str]:
    controls = found["controls"]
    if controls:
        scores = ", ".join(f"{name} {_plain(one['estimate'])}" for name, one in controls["scores"].items())
        yield f"{found['rag_metric']} of {controls['model']} by its sources: {scores}"


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if value >= 10 else f"{value:.3f}"
