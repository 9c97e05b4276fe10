"""Checkpoints in a folder, ours or such as other trainers leave them, each as an adapter's folder.

Ours are items with a marker (`jobs.items`). Others say nothing of their base model; they are taken for
adapters of the one that is named, and must fit it.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from jobs.contracts.errors import InputError, MissingInputError
from jobs.items import COMPLETE, verify
from jobs.ml.adapter_files import CONFIG, ORIGIN, WEIGHTS, read_settings, require_adapter, write_settings
from jobs.ml.base_model import Base

_NUMBER = re.compile(r"\d+")
_FLAT = re.compile(r"(step|checkpoint)[_-]\d+\.safetensors")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint."""

    path: str
    """Its name in the folder."""
    step: int | None
    folder: Path
    """Its adapter, checked: of the base model."""
    note: str = ""


def find_checkpoints(folder: Path, base: Base, scratch: Path) -> list[Checkpoint]:
    """The checkpoints in a folder, by step: `step_<n>/` and the like, or flat `step_<n>.safetensors`.

    A flat file's settings are `step_<n>.json` or `adapter_config.json` beside it. Where some items have a marker,
    those without it are not complete, and left out. Raises MissingInputError where there is none,
    IntegrityError and InputError for a damaged one, ConfigError for one of another base model.
    """
    if not folder.is_dir():
        raise MissingInputError("no such folder", where=str(folder), hint="name the folder that train wrote into")
    folders = [path.parent for path in folder.glob(f"*/{CONFIG}") if not _is_own_link(path.parent)]
    complete = [path for path in folders if (path / COMPLETE).is_file()]
    flat = [path for path in folder.iterdir() if _FLAT.fullmatch(path.name)]
    found = [*(complete or folders), *flat]
    if not found:
        hint = "it is to hold step_<n>/ folders, or step_<n>.safetensors with adapter_config.json beside them"
        raise MissingInputError("no checkpoints", where=str(folder), hint=hint)
    return [_checkpoint(path, base, scratch) for path in sorted(found, key=_order)]


def _is_own_link(path: Path) -> bool:
    """Whether it is a second name, such as `production`, of what lies beside it."""
    return path.is_symlink() and path.resolve().parent == path.parent.resolve()


def as_adapter(folder: Path, base: Base, scratch: Path) -> tuple[Path, str]:
    """An adapter's folder, checked, and a note where nothing but its shapes tells that it is of the base model."""
    if (folder / COMPLETE).is_file():
        verify(folder)
    if (folder / ORIGIN).is_file():
        require_adapter(folder, base)
        return folder, ""
    return _adopted(folder / WEIGHTS, folder / CONFIG, base, scratch / folder.name)


def _checkpoint(path: Path, base: Base, scratch: Path) -> Checkpoint:
    if path.is_dir():
        folder, note = as_adapter(path, base, scratch)
    else:
        folder, note = _adopted(path, _settings_beside(path), base, scratch / path.stem)
    numbers = _NUMBER.findall(path.stem)
    step = int(numbers[-1]) if numbers else None
    return Checkpoint(path.name, step, folder, note and f"{path.name}: {note}")


def _adopted(weights: Path, settings: Path, base: Base, target: Path) -> tuple[Path, str]:
    """A folder of ours made of another's files."""
    if not weights.is_file():
        raise MissingInputError(f"there is no {weights.name}", where=str(weights.parent))
    target.mkdir(parents=True)
    shutil.copyfile(weights, target / WEIGHTS)
    shutil.copyfile(settings, target / CONFIG)
    try:
        write_settings(target, read_settings(target), base)
    except InputError as error:
        raise InputError(error.what, where=str(settings), hint=error.hint) from error
    require_adapter(target, base)
    return target, f"it does not say which base model it is of: it is taken for one of {base.name}"


def _settings_beside(weights: Path) -> Path:
    for name in (f"{weights.stem}.json", f"{weights.stem}_config.json", CONFIG):
        if (path := weights.with_name(name)).is_file():
            return path
    raise MissingInputError(
        f"its settings are not beside it: there is no {CONFIG}", where=str(weights), hint="copy PEFT's own file there"
    )


def _order(path: Path) -> tuple[list[int], str]:
    return [int(number) for number in _NUMBER.findall(path.name)], path.name
