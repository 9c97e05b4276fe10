"""The stage table: the one list of what runs, in which order, on what.

The controller, the local runner, the command line and the README's table all come from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jobs.contracts.artifacts import Artifact

_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Stage:
    """One program, one module, one Job, one marker."""

    name: str
    summary: str
    after: tuple[str, ...]
    """Stages that must have succeeded before."""
    reads: tuple[str, ...]
    """Kinds of artifacts (see `jobs.contracts.artifacts`)."""
    writes: tuple[str, ...]
    image: Literal["light", "heavy"] = "light"
    device: Literal["cpu", "gpu"] = "cpu"
    retries: int = 3
    deadline_seconds: int = _HOUR
    reads_incumbent: bool = False
    """Whether it reads the adapter that was in service when the cycle began."""
    is_retrained: bool = False
    """Whether a further attempt of the cycle, after too small a gain, runs it again."""

    @property
    def module(self) -> str:
        """Import path of the module that holds `run(config, inputs, outputs)`."""
        return f"jobs.stages.{self.name}"


STAGES: tuple[Stage, ...] = (
    Stage("parse", "Read mail into records.", (), (), ("messages", "rejects", "cursor")),
    Stage("split", "Thread the mail and split it for ever.", ("parse",), ("messages", "cursor"), ("assignments",)),
    Stage(
        "window",
        "List this window's new train chunks.",
        ("split",),
        ("assignments",),
        ("new_train", "val_set", "test_set"),
    ),
    Stage("rehearse", "List old train chunks to rehearse.", ("window",), ("assignments",), ("manifest",)),
    Stage(
        "sample",
        "Schedule the batches of every epoch.",
        ("window", "rehearse"),
        ("assignments", "new_train", "manifest"),
        ("schedule",),
        is_retrained=True,
    ),
    Stage(
        "train",
        "Train a LoRA adapter by the schedule.",
        ("sample",),
        ("assignments", "schedule", "val_set"),
        ("checkpoints", "trainer_state", "exposures"),
        "heavy",
        "gpu",
        deadline_seconds=24 * _HOUR,
        reads_incumbent=True,
        is_retrained=True,
    ),
    Stage(
        "index",
        "Embed new passages into the index.",
        ("split",),
        ("assignments",),
        ("vector_index",),
        "heavy",
        deadline_seconds=6 * _HOUR,
    ),
    Stage(
        "evaluate",
        "Score every checkpoint and the incumbent.",
        ("train", "index"),
        ("assignments", "checkpoints", "val_set", "test_set", "vector_index"),
        ("eval_results",),
        "heavy",
        "gpu",
        deadline_seconds=12 * _HOUR,
        reads_incumbent=True,
        is_retrained=True,
    ),
    Stage(
        "select",
        "Choose a checkpoint, or keep the incumbent.",
        ("evaluate",),
        ("eval_results", "trainer_state"),
        ("decision",),
        is_retrained=True,
    ),
    Stage("promote", "Put the chosen adapter into service.", ("select",), ("decision",), ("production",)),
)


def stage(name: str) -> Stage:
    """The row of that name; KeyError where there is none."""
    for row in STAGES:
        if row.name == name:
            return row
    raise KeyError(name)


def writer(artifact: Artifact | str) -> Stage:
    """The stage that writes an artifact: there is exactly one."""
    kind = artifact if isinstance(artifact, str) else artifact.kind
    for row in STAGES:
        if kind in row.writes:
            return row
    raise KeyError(kind)
