"""Making small mails, splitting them, and reading back what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from jobs.assignments.archive import Archive
from jobs.contracts.records import Assignment
from jobs.intake.reading import read_data
from jobs.stages import Inputs, Outputs
from jobs.stages.split import Config, run


def mail(
    message_id: str,
    *,
    day: str = "2024-01-01",
    hour: int = 9,
    references: tuple[str, ...] = (),
    sender: str = "ann@example.org",
    subject: str = "plan",
    body: str = "",
    extra: str = "",
) -> dict[str, str]:
    """A record as `parse` writes it."""
    year, month, date = day.split("-")
    name = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")[int(month) - 1]
    lines = [
        f"From: {sender}",
        f"Date: {int(date)} {name} {year} {hour:02d}:00:00 +0000",
        f"Subject: {subject}",
        f"Message-ID: <{message_id}>",
    ]
    if references:
        lines.append("References: " + " ".join(f"<{one}>" for one in references))
    if extra:
        lines.append(extra)
    raw = "\n".join([*lines, "", body or f"This is the text of {message_id}.", ""])
    return {"message_id": message_id, "email_message": raw}


def write(path: Path, mails: list[dict[str, Any]]) -> Path:
    """The mails as a file that split reads."""
    path.write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in mails))
    return path


def split(archive: Archive, mails: list[dict[str, Any]] | Path, folder: Path, **settings: Any) -> dict[str, Any]:
    """Split mails into the archive as the stage does."""
    cycle = settings.pop("cycle", "")
    path = mails if isinstance(mails, Path) else write(folder / "messages.jsonl", mails)
    settings.setdefault("workers", 1)
    return run(Config(**settings), Inputs({"messages": [path]}, archive, cycle), Outputs())


def rows(archive: Archive) -> list[Assignment]:
    """All rows of the log."""
    return [row for segment in archive.log.segments() for row in segment.rows()]


def messages(archive: Archive) -> dict[str, dict[str, Any]]:
    """The decoded records by Message-ID."""
    return {record["message_id"]: record for record in read_data(archive, "messages")}


def chunks(archive: Archive) -> list[dict[str, Any]]:
    """All chunks with their texts."""
    return list(read_data(archive, "chunks"))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def threads_by_split(seed: int = 42, ratios: tuple[int, int, int] = (80, 10, 10)) -> dict[str, list[str]]:
    """Root Message-IDs whose threads fall into each split, some of each."""
    from jobs.contracts.records import SPLITS
    from jobs.intake.placing import SplitRule, thread_id_of

    rule = SplitRule(seed, ratios)
    found: dict[str, list[str]] = {one: [] for one in SPLITS}
    for number in range(200):
        root = f"root{number}@example.org"
        found[rule.split_of(thread_id_of(root))].append(root)
    return found
