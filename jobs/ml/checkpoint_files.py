"""Adapters and checkpoints, ours or such as other trainers leave them, each as an adapter's folder.

Ours are items with a marker (`jobs.items`). Others say no more of their base model than its name; they are
taken for adapters of the one that is named, and must fit it.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from jobs.contracts.errors import InputError, MissingInputError, UsageError
from jobs.contracts.store import StoreOptions
from jobs.files import read_json
from jobs.items import COMPLETE, verify
from jobs.ml.adapter_files import (
    CONFIG,
    ORIGIN,
    WEIGHTS,
    read_origin,
    read_settings,
    require_adapter,
    require_weights,
    write_settings,
)
from jobs.ml.base_model import Base, find_base

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


def as_adapter(path: Path, base: Base, scratch: Path) -> tuple[Path, str]:
    """An adapter's folder, checked, and a note where nothing but its shapes tells that it is of the base model.

    The adapter is a folder, ours or PEFT's, or a flat file of its weights with the settings beside it. One that
    is not ours is copied into scratch, and says there what it is taken for. Raises MissingInputError,
    InputError, IntegrityError, and ConfigError for one of another base model.
    """
    if not path.is_dir():
        return _adopted(path, _require_settings(path), base, scratch / path.stem)
    if (path / COMPLETE).is_file():
        verify(path)
    if (path / ORIGIN).is_file():
        require_adapter(path, base)
        return path, ""
    return _adopted(path / WEIGHTS, path / CONFIG, base, scratch / (path.name or "adapter"))


def base_of(path: Path, name: str | None, revision: str | None = None, *, options: StoreOptions | None = None) -> Base:
    """The base model that a user names for an adapter; without a name, the one that the adapter's files name.

    UsageError where neither does; MissingInputError and InputError for what is no adapter, and what `find_base` raises.
    """
    if name is None:
        name, own = base_named_by(path)
        revision = revision or own
    return find_base(name, revision, options=options)


def base_named_by(path: Path) -> tuple[str, str | None]:
    """Name and revision of the base model that an adapter's files name: refrain.json, or PEFT's settings."""
    if path.is_dir() and (path / ORIGIN).is_file():
        origin = read_origin(path)
        return origin["base"], origin["revision"]
    require_weights(path / WEIGHTS if path.is_dir() else path)
    settings = read_json(path / CONFIG if path.is_dir() else _require_settings(path))
    name = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
    if not name:
        raise UsageError("the adapter does not say which base model it is of", where=str(path), hint="name it: --base")
    return str(name), None if Path(name).is_dir() else settings.get("revision")


def settings_beside(weights: Path) -> Path | None:
    """The settings of a flat `step_1000.safetensors`; None where there are none beside it."""
    names = (f"{weights.stem}.json", f"{weights.stem}_config.json", f"{weights.stem}.config.json", CONFIG)
    return next((weights.with_name(name) for name in names if weights.with_name(name).is_file()), None)


def _require_settings(weights: Path) -> Path:
    require_weights(weights)
    if (path := settings_beside(weights)) is None:
        what = f"its settings are not beside it: there is no {CONFIG}"
        raise MissingInputError(what, where=str(weights), hint="copy PEFT's own file there")
    return path


def _checkpoint(path: Path, base: Base, scratch: Path) -> Checkpoint:
    folder, note = as_adapter(path, base, scratch)
    numbers = _NUMBER.findall(path.stem)
    step = int(numbers[-1]) if numbers else None
    return Checkpoint(path.name, step, folder, note and f"{path.name}: {note}")


def _adopted(weights: Path, settings: Path, base: Base, target: Path) -> tuple[Path, str]:
    """A folder of ours made of another's files."""
    require_weights(weights)
    if not settings.is_file():
        raise MissingInputError(f"no adapter: there is no {settings.name}", where=str(settings.parent))
    target.mkdir(parents=True)
    shutil.copyfile(weights, target / WEIGHTS)
    shutil.copyfile(settings, target / CONFIG)
    try:
        write_settings(target, read_settings(target), base)
    except InputError as error:
        raise InputError(error.what, where=str(settings), hint=error.hint) from error
    require_adapter(target, base)
    return target, f"it does not say which base model it is of: it is taken for one of {base.name}"


def _order(path: Path) -> tuple[list[int], str]:
    return [int(number) for number in _NUMBER.findall(path.name)], path.name
