"""The stages: one file each, independent of each other, `run(config, inputs, outputs)` in every one.

A stage knows its inputs and outputs by the kind of artifact (`jobs.contracts.artifacts`), not by
where they lie: the command line gives it the user's files, the runner those of a cycle in a store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.contracts.errors import UsageError

if TYPE_CHECKING:
    from jobs.assignments.archive import Archive


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a stage reads: local files by kind of artifact, and the archive where there is one."""

    paths: Mapping[str, list[Path]] = field(default_factory=dict)
    archive: Archive | None = None
    cycle: str = ""
    """The cycle that this run belongs to; it stands in the header of a log segment."""
    has_sources: bool = False
    """Whether that cycle was given mail to read; one without works on what the log holds."""

    def one(self, kind: str) -> Path:
        """The only file of that kind; UsageError where none was given."""
        paths = self.paths.get(kind) or []
        if len(paths) != 1:
            raise UsageError(f"needs one {kind} file, has {len(paths)}")
        return paths[0]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where a stage writes: local files by kind of artifact. A kind that is not named is not wanted."""

    paths: Mapping[str, Path] = field(default_factory=dict)

    def __getitem__(self, kind: str) -> Path:
        return self.paths[kind]

    def __contains__(self, kind: object) -> bool:
        return kind in self.paths
