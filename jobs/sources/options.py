"""How sources of mail are read, and what they tell beside their mails."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from jobs.mail.limits import Limits
from jobs.mail.mbox import MboxFormat
from jobs.sources.cursors import Cursors


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How sources are read."""

    limits: Limits = field(default_factory=Limits)
    mbox_format: MboxFormat = "auto"
    cursors: Cursors = field(default_factory=dict)
    """How far each IMAP folder was read before."""
    imap_ca: str | None = None
    """File with the certificates of a private CA."""
    alone: bool = True
    """One process reads everything: nothing is cut for the sake of others."""
    outputs: tuple[Path, ...] = ()
    """Files that are being written: they are no mail where they lie in a folder that is read."""
    notes: list[str] = field(default_factory=list)
    """Filled while mail is read: what a user should know, a line each."""
    reached: Cursors = field(default_factory=dict)
    """Filled while mail is read: how far each IMAP folder has been read now."""

    def is_output(self, path: Path) -> bool:
        """Whether a file is one of ours, finished or not."""
        return any(
            path.parent == output.parent
            and (path.name == output.name or (path.name.startswith(f".{output.name}.") and path.suffix == ".tmp"))
            for output in self.outputs
        )
