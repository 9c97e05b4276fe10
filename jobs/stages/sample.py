"""sample: the schedule, every batch of every epoch, from the new train chunks and the manifest."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from jobs.files import atomic_output
from jobs.replay.allocation import parse_ratio, parse_share
from jobs.replay.checks import checked
from jobs.replay.coverage import cover
from jobs.replay.report import Report
from jobs.replay.sampler import StratifiedReplaySampler
from jobs.replay.schedule_file import write_schedule
from jobs.replay.sources import ChunkSource, FileSource, open_source
from jobs.replay.table import UNKNOWN, ChunkTable
from jobs.stages import Inputs, Outputs, how


@dataclass(frozen=True)
class Config:
    """Settings of `sample`; see `StratifiedReplaySampler`."""

    replay_ratio: str = "1:4"
    batch_size: int = 16
    batch_tokens: int | None = None
    min_per_bucket: int = 2
    max_share: str = "0.2"
    max_samples: int | None = None
    epochs: int = 3
    active_windows: int = 1
    window_idx: int | None = None
    """That of the newest new chunk unless given."""
    seed: int = 42
    tells: bool = how(default=True)
    """Whether the report goes to standard error where no file for it is named."""


def run(config: Config, inputs: Inputs, outputs: Outputs) -> dict[str, Any]:
    """Write the schedule, and the report as text to `report` where that is wanted, else to standard error.

    Raises InputError for a list that names a val or test chunk, one that the log does not hold, or,
    in the manifest, one of an active window.
    """
    parse_ratio(config.replay_ratio)  # a bad one is told before the reading, not after
    parse_share(config.max_share, "cap on the share")
    has_log = inputs.archive is not None or bool(inputs.paths.get("assignments"))
    source = open_source(inputs.paths, inputs.archive, inputs.cycle) if has_log else None
    notes = [] if source is None else source.notes
    manifest, new, window_idx = _lists(config, inputs, source)
    if source is None:
        files = FileSource(inputs.paths)
        manifest, new = files.completed(manifest), files.completed(new)
        notes += files.notes
        if (new.split == UNKNOWN).any() or (manifest.split == UNKNOWN).any():
            notes.append("some chunks are not known to be of train: give --assignments to check them")
    sampler = StratifiedReplaySampler(
        manifest,
        new,
        replay_ratio=config.replay_ratio,
        batch_size=config.batch_size,
        batch_tokens=config.batch_tokens,
        min_per_bucket=config.min_per_bucket,
        max_share=config.max_share,
        max_samples=config.max_samples,
        seed=config.seed,
        window_idx=window_idx,
        num_epochs=config.epochs,
    )
    notes += _capped(config, sampler)
    coverage = None
    if source is not None:
        coverage = cover(source.table, sampler, source.cycle_windows(window_idx), config.active_windows)
    report = write_schedule(outputs["schedule"], sampler, coverage)
    _tell(config, report, outputs)
    result = {"window_idx": window_idx, "quota": sampler.quota} | report.figures()
    return result | {"notes": notes} if notes else result


def _capped(config: Config, sampler: StratifiedReplaySampler) -> list[str]:
    """What is told where the cap on the share, not the ratio, has decided how much is rehearsed."""
    asked = min(int(sampler.num_new * sampler.ratio), sampler.num_old)
    if config.max_samples is not None:
        asked = min(asked, config.max_samples)
    if asked <= sampler.quota:
        return []
    share, ratio = config.max_share, config.replay_ratio
    return [
        f"--max-share {share} holds rehearsal at {sampler.quota} chunks an epoch; the ratio {ratio} asks for {asked}"
    ]


def _lists(config: Config, inputs: Inputs, source: ChunkSource | None) -> tuple[ChunkTable, ChunkTable, int]:
    """The manifest and the new chunks, checked, and the window."""
    log, forgotten = (None, None) if source is None else (source.table, source.forgotten)
    log_name = inputs.archive.store.url if inputs.archive else ", ".join(map(str, inputs.paths.get("assignments", [])))
    new_path, manifest_path = inputs.one("new_train"), inputs.one("manifest")
    new = checked(ChunkTable.from_file(new_path).distinct(), new_path, log, forgotten=forgotten, log_name=log_name)
    window_idx = config.window_idx
    if window_idx is None:
        window_idx = new.newest_window()
    if window_idx == UNKNOWN and source is not None:
        window_idx = source.this_window()
    # Without a new chunk and without a log nothing tells which windows are active; nor is anything drawn.
    first_active = None if window_idx == UNKNOWN else window_idx - config.active_windows + 1
    manifest = ChunkTable.from_file(manifest_path).distinct()
    manifest = checked(manifest, manifest_path, log, forgotten=forgotten, first_active=first_active, log_name=log_name)
    return manifest, new, max(0, window_idx)


def _tell(config: Config, report: Report, outputs: Outputs) -> None:
    if "report" in outputs:
        with atomic_output(outputs["report"]) as stream:
            stream.write(report.text().encode())
    elif config.tells:
        sys.stderr.write(report.text())
