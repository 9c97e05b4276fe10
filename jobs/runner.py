"""One stage of one cycle over a store: bring the inputs, run, write the outputs, the marker last.

The marker is what makes a stage's artifacts count, so a killed and restarted stage does its work
again and leaves the bytes that an undisturbed one would have left. A stage whose marker stands is
not run again: its result is given back.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import orjson

from jobs.assignments.archive import Archive
from jobs.contracts import stages
from jobs.contracts.artifacts import ARTIFACTS, artifact_key, marker_key
from jobs.contracts.errors import ConfigError, MissingInputError, UsageError
from jobs.contracts.records import Json
from jobs.contracts.store import Store, StoreOptions
from jobs.stages import Inputs, Outputs

MARKER_FORMAT = 1
_BLOCK_BYTES = 1 << 20


def run_in_store(
    stage: str, config: Any, *, url: str, cycle: str, options: StoreOptions | None = None, again: bool = False
) -> Json:
    """Run a stage of a cycle over the archive at `url`; its result, also where it had been run before.

    `config` is the stage's own Config. `again` runs a finished stage once more. Raises
    MissingInputError where a stage before it has not finished, ConfigError where the stage has
    finished with other settings, and whatever the stage raises.
    """
    if not cycle:
        raise UsageError("no cycle was named", hint="say --cycle NAME: its artifacts are kept under that name")
    row = stages.stage(stage)
    archive = Archive.open(url, options)
    settings = _settings(config)
    if not again and (result := _finished(archive.store, stage, cycle, settings)) is not None:
        return result
    archive.store.delete(marker_key(cycle, stage))
    with tempfile.TemporaryDirectory(prefix=f"refrain-{stage}-") as folder:
        scratch = Path(folder)
        inputs, input_digests = _bring(archive, row, cycle, scratch)
        outputs = Outputs({kind: scratch / ARTIFACTS[kind].filename for kind in row.writes if kind != "assignments"})
        result = dict(import_module(row.module).run(config, inputs, outputs))
        written = dict(_upload(archive.store, stage, cycle, outputs))
    marker = {
        "format": MARKER_FORMAT,
        "stage": stage,
        "cycle": cycle,
        "config": settings,
        "inputs": input_digests,
        "outputs": written,
        "result": result,
    }
    archive.store.put(marker_key(cycle, stage), orjson.dumps(marker, option=orjson.OPT_INDENT_2))
    return result


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


def _finished(store: Store, stage: str, cycle: str, settings: Json) -> Json | None:
    marker = read_marker(store, stage, cycle)
    if marker is None:
        return None
    before = marker["config"]
    for name in sorted(settings.keys() | before.keys()):
        if settings.get(name) != before.get(name):
            raise ConfigError(
                f"{stage} of cycle {cycle} has finished with {name} = {before.get(name)!r}, not {settings.get(name)!r}",
                where=store.url,
                hint="name another --cycle, or say --again to run it anew",
            )
    result: Json = marker["result"]
    return result


def _bring(archive: Archive, row: stages.Stage, cycle: str, scratch: Path) -> tuple[Inputs, dict[str, str]]:
    paths: dict[str, list[Path]] = {}
    digests: dict[str, str] = {}
    for kind in row.reads:
        if kind == "assignments":
            continue
        before = stages.writer(kind).name
        marker = read_marker(archive.store, before, cycle)
        if marker is None:
            raise MissingInputError(
                f"{row.name} needs {ARTIFACTS[kind].filename}, but {before} of cycle {cycle} has not finished",
                where=archive.store.url,
                hint=f"run `refrain {before} --store {archive.store.url} --cycle {cycle}` first",
            )
        entry = marker["outputs"].get(kind)
        if entry is None:  # a stage need not have written all it may write
            continue
        path = scratch / "in" / ARTIFACTS[kind].filename
        path.parent.mkdir(exist_ok=True)
        digests[kind] = _download(archive.store, entry["key"], path)
        if digests[kind] != entry["sha256"]:
            raise MissingInputError(
                f"{entry['key']} is not what {before} wrote", where=archive.store.url, hint=f"run {before} with --again"
            )
        paths[kind] = [path]
    return Inputs(paths, archive, cycle), digests


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
