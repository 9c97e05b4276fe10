"""The stages: one file each, independent of each other, `run(config, inputs, outputs)` in every one.

A stage knows its inputs and outputs by the kind of artifact (`jobs.contracts.artifacts`), not by
where they lie: the command line gives it the user's files, the runner those of a cycle in a store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.contracts.errors import UsageError
from jobs.items import Items, LocalItems

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
    attempt: int = 0
    """Which attempt of the cycle this is: 0, or the number of a retrain."""

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
    folders: Mapping[str, Items] = field(default_factory=dict)
    """Where the items of a folder artifact go as they come, for those that go into a store."""

    def items(self, kind: str) -> Items:
        """The items of a folder artifact: those of an earlier run that was stopped, and where to publish more."""
        return self.folders.get(kind) or LocalItems(self.paths[kind])

    def __getitem__(self, kind: str) -> Path:
        return self.paths[kind]

    def __contains__(self, kind: object) -> bool:
        return kind in self.paths


def how(default: Any) -> Any:
    """A setting that says how a stage works, not what comes out: results do not depend on it."""
    return field(default=default, metadata={"how": True})


def settings_of(config: Any) -> dict[str, Any]:
    """What a stage's results depend on: its settings but those that are `how`."""
    return {one.name: getattr(config, one.name) for one in fields(config) if not one.metadata.get("how")}
