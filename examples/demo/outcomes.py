"""What cycles have brought, as a table: read from the status that `refrain run --json` prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jobs.contracts.artifacts import artifact_key

Json = dict[str, Any]


def outcome_of(status: Json, cycle: str, archive: Path) -> Json:
    """A row of the table: mails, steps, val perplexity of what was in service and of the candidate, the gate's word.

    `archive` is its folder in the store.
    """
    results = [(stage["name"], stage["result"]) for stage in status["stages"]]
    last = dict(results)
    attempts = sum(name == "select" for name, _ in results)
    decision = read_artifact(archive, cycle, "select", "decision", attempts - 1) if attempts else {}
    before, after = _perplexities(archive, cycle, decision)
    return {
        "cycle": cycle,
        "mails": last["split"]["num_new"] if "split" in last else 0,
        "steps": sum(result["num_steps"] for name, result in results if name == "train"),
        "attempts": attempts,
        "before": before,
        "after": after,
        "delta": decision.get("delta"),
        "interval": decision.get("interval"),
        "confidence": decision.get("confidence"),
        "num_threads": decision.get("num_threads", 0),
        "outcome": status["state"],
        "reason": decision.get("reason", "TooLittleMail"),
        "message": status["message"] or decision.get("message", ""),
    }


def _perplexities(archive: Path, cycle: str, decision: Json) -> tuple[float | None, float | None]:
    """Val perplexity of what was in service, and of the checkpoint that was chosen."""
    winner = decision.get("winner")
    if not winner:
        return None, None
    scored = read_artifact(archive, cycle, "evaluate", "eval_results", winner["attempt"])
    (chosen,) = (entry for entry in scored["checkpoints"] if entry["sha256"] == winner["sha256"])
    return (scored["incumbent"] or scored["base"])["val_perplexity"], chosen["val_perplexity"]


def read_artifact(archive: Path, cycle: str, stage: str, kind: str, attempt: int) -> Json:
    """A JSON artifact of a cycle's attempt."""
    value: Json = json.loads((archive / artifact_key(cycle, stage, kind, attempt)).read_text())
    return value


def table(rows: list[Json]) -> str:
    """The rows as aligned columns."""
    head = ("cycle", "new mails", "steps", "val perplexity", "gain (interval)", "outcome")
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    lines.insert(1, tuple("─" * width for width in widths))
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cells(row: Json) -> tuple[str, ...]:
    both = f"{row['before']:.2f} → {row['after']:.2f}" if row["before"] and row["after"] else "-"
    gain = "-"
    if row["delta"] is not None:
        low, high = ("?" if bound is None else f"{bound:+.1%}" for bound in row["interval"])
        gain = f"{row['delta']:+.1%} ({100 * row['confidence']:.4g}%: {low} to {high})"
    return row["cycle"], str(row["mails"]), str(row["steps"]), both, gain, f"{row['outcome']}: {row['reason']}"
