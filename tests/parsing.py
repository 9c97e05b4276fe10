"""Making small mailboxes, parsing them, and reading back what came of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from jobs.files import read_records
from jobs.stages import Inputs, Outputs
from jobs.stages.parse import Config, run

SEPARATOR = b"From ann@example.org Mon Jul  1 11:26:48 2019\n"


def mail(number: int, body: bytes = b"Hello.\n") -> bytes:
    """A mail whose id begins with a number."""
    return b"From: ann@example.org\nMessage-ID: <%d@example.org>\nSubject: %d\n\n%b" % (number, number, body)


def box(*numbers: int, body: bytes = b"Hello.\n") -> bytes:
    """An mbox of such mails."""
    return b"".join(SEPARATOR + mail(number, body) + b"\n" for number in numbers)


def parsed(
    folder: Path, *sources: Path | str, **settings: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Any]:
    """Records, rejects and the result of a run."""
    outputs = Outputs({"messages": folder / "out/messages.jsonl", "rejects": folder / "out/rejects.jsonl"})
    settings.setdefault("workers", 1)
    result = run(Config(tuple(map(str, sources)), **settings), Inputs(), outputs)
    return list(read_records(outputs["messages"])), list(read_records(outputs["rejects"])), result


def ids(records: list[dict[str, Any]]) -> list[str]:
    """The numbers of such mails."""
    return [record["message_id"].partition("@")[0] for record in records]


PEAK = """
import sys
from pathlib import Path
from jobs.cli import main
try:
    main(sys.argv[1:])
finally:
    # Not ru_maxrss: that begins with what the process that started this one holds.
    print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


def peak_bytes(source: Path, output: Path) -> int:
    """The most memory that a process needs to parse a source."""
    command = [sys.executable, "-c", PEAK, "parse", str(source), "-o", str(output), "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024
