"""One stage of one cycle over a store: bring the inputs, run, write the outputs, the marker last.

The marker is what makes a stage's artifacts count, so a killed and restarted stage does its work
again and leaves the bytes that an undisturbed one would have left. A stage whose marker stands is
not run again: its result is given back.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import orjson

from jobs.assignments.archive import Archive
from jobs.contracts import stages
from jobs.contracts.artifacts import ARTIFACTS, artifact_key, marker_key
from jobs.contracts.errors import ConfigError, IntegrityError, MissingInputError, UsageError
from jobs.contracts.records import Json
from jobs.contracts.store import Store, StoreOptions
from jobs.files import scratch_folder
from jobs.stages import Inputs, Outputs

MARKER_FORMAT = 1
FINISHED_BEFORE = "finished_before"
"""In a result: the stage had finished before, and nothing was done now."""
_BLOCK_BYTES = 1 << 20
_CYCLE_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def run_in_store(
    stage: str, config: Any, *, url: str, cycle: str, options: StoreOptions | None = None, again: bool = False
) -> Json:
    """Run a stage of a cycle over the archive at `url`; its result, also where it had been run before.

    `config` is the stage's own Config. A stage that has finished is not run again, and its result
    says so (FINISHED_BEFORE), unless what it read has changed since, it reads what may change
    unseen (its `reads_again(config)`), or `again` is said. Raises MissingInputError where a stage before it has not
    finished, ConfigError where it has finished with other settings, and whatever the stage raises.
    """
    if not _CYCLE_NAME.fullmatch(cycle):
        raise UsageError(
            f"not a name for a cycle: {cycle!r}",
            where="--cycle",
            hint="up to 253 small letters, digits, '-' and '.', as Kubernetes has them",
        )
    row = stages.stage(stage)
    if row.after:  # only the first stage may begin an archive: a mistyped URL must not
        Archive.open(url, options, read_only=True)
    archive = Archive.open(url, options)
    settings = _settings(config)
    needed, digests = _inputs_of(archive.store, row, cycle)
    marker = read_marker(archive.store, stage, cycle)
    module = import_module(row.module)
    if marker is not None and marker["inputs"] == digests and not again:
        _require_same_settings(marker, settings, archive.store.url)
        if not getattr(module, "reads_again", _never)(config):
            result: Json = marker["result"]
            return result | {FINISHED_BEFORE: True}
    archive.store.delete(marker_key(cycle, stage))
    with scratch_folder(f"refrain-{stage}-") as scratch:
        paths = {file.kind: [_bring(archive.store, file, scratch)] for file in needed}
        inputs = Inputs(paths, archive, cycle, _has_sources(archive.store, cycle))
        outputs = Outputs({kind: scratch / ARTIFACTS[kind].filename for kind in row.writes if kind != "assignments"})
        result = dict(module.run(config, inputs, outputs))
        written = dict(_upload(archive.store, stage, cycle, outputs))
    new_marker = {
        "format": MARKER_FORMAT,
        "stage": stage,
        "cycle": cycle,
        "config": settings,
        "inputs": digests,
        "outputs": written,
        "result": result,
    }
    archive.store.put(marker_key(cycle, stage), orjson.dumps(new_marker, option=orjson.OPT_INDENT_2))
    return result


def _never(_config: Any) -> bool:
    return False


def _has_sources(store: Store, cycle: str) -> bool:
    """Whether the cycle was given mail to read; one without works on what the log holds."""
    marker = read_marker(store, "parse", cycle)
    return marker is not None and marker["result"]["num_sources"] > 0


def read_marker(store: Store, stage: str, cycle: str) -> Json | None:
    """The marker of a finished stage; None where it has not finished."""
    key = marker_key(cycle, stage)
    if not store.exists(key):
        return None
    marker: Json = orjson.loads(store.get(key))
    return marker


def _settings(config: Any) -> Json:
    # `workers` is how, not what: results do not depend on it.
    return {name: value for name, value in _plain(dataclasses.asdict(config)).items() if name != "workers"}


def _plain(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value, default=str))


def _require_same_settings(marker: Json, settings: Json, where: str) -> None:
    before = marker["config"]
    for name in sorted(settings.keys() | before.keys()):
        if settings.get(name) != before.get(name):
            raise ConfigError(
                f"{marker['stage']} of cycle {marker['cycle']} has finished with {name} = {before.get(name)!r}, "
                f"not {settings.get(name)!r}",
                where=where,
                hint="name another --cycle, or say --again to run it anew",
            )


@dataclass(frozen=True, slots=True)
class _InputFile:
    """An artifact that an earlier stage of the cycle has written."""

    kind: str
    key: str
    sha256: str
    stage: str


def _inputs_of(store: Store, row: stages.Stage, cycle: str) -> tuple[list[_InputFile], dict[str, str]]:
    """The files that a stage reads, and the digests by kind of all that it reads.

    The log is no file of the cycle: what split said of it stands for it.
    """
    files: list[_InputFile] = []
    digests: dict[str, str] = {}
    for kind in row.reads:
        before = stages.writer(kind).name
        marker = read_marker(store, before, cycle)
        if marker is None:
            raise MissingInputError(
                f"{row.name} needs {ARTIFACTS[kind].filename}, but {before} of cycle {cycle} has not finished",
                where=store.url,
                hint=f"run `refrain {before} --store {store.url} --cycle {cycle}` first",
            )
        entry = marker["outputs"].get(kind)
        if kind == "assignments":
            said = orjson.dumps(marker["result"], option=orjson.OPT_SORT_KEYS)
            digests[kind] = hashlib.sha256(said).hexdigest()
        elif entry is not None:  # a stage need not have written all it may write
            files.append(_InputFile(kind, entry["key"], entry["sha256"], before))
            digests[kind] = entry["sha256"]
    return files, digests


def _bring(store: Store, file: _InputFile, scratch: Path) -> Path:
    path = scratch / "in" / ARTIFACTS[file.kind].filename
    path.parent.mkdir(exist_ok=True)
    if _download(store, file.key, path) != file.sha256:
        raise IntegrityError(
            f"it is not what {file.stage} wrote", where=f"{store.url}/{file.key}", hint=f"run {file.stage} with --again"
        )
    return path


def _download(store: Store, key: str, path: Path) -> str:
    digest = hashlib.sha256()
    with store.open(key) as source, path.open("wb") as target:
        while block := source.read(_BLOCK_BYTES):
            digest.update(block)
            target.write(block)
    return digest.hexdigest()


def _upload(store: Store, stage: str, cycle: str, outputs: Outputs) -> Iterator[tuple[str, Json]]:
    for kind, path in outputs.paths.items():
        if path.exists():
            key = artifact_key(cycle, stage, kind)
            with path.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            store.upload(key, path)
            yield kind, {"key": key, "sha256": sha256, "num_bytes": path.stat().st_size}
