"""One stage of one cycle over a store: bring the inputs, run, write the outputs, the marker last.

The marker is what makes a stage's artifacts count, so a killed and restarted stage does its work
again and leaves the bytes that an undisturbed one would have left. A stage whose marker stands is
not run again: its result is given back.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import orjson

from jobs.assignments.archive import Archive
from jobs.contracts import formats, stages
from jobs.contracts.artifacts import ARTIFACTS, artifact_key, marker_key
from jobs.contracts.errors import ConfigError, IntegrityError, MissingInputError, UsageError
from jobs.contracts.markers import read_marker
from jobs.contracts.records import Json
from jobs.contracts.store import Store, StoreOptions
from jobs.files import scratch_folder
from jobs.items import COMPLETE, StoreItems, file_digest
from jobs.production import bring_adapter, incumbent_of
from jobs.stages import Inputs, Outputs, settings_of

FINISHED_BEFORE = "finished_before"
"""In a result: the stage had finished before, and nothing was done now."""
_BLOCK_BYTES = 1 << 20
_CYCLE_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def run_in_store(
    stage: str,
    config: Any,
    *,
    url: str,
    cycle: str,
    attempt: int = 0,
    options: StoreOptions | None = None,
    again: bool = False,
) -> Json:
    """Run a stage of a cycle over the archive at `url`: see `run_in_archive`. Only the first stage begins one."""
    require_cycle_name(cycle)
    if stages.stage(stage).after:  # a mistyped URL must not
        Archive.open(url, options, read_only=True)
    return run_in_archive(stage, config, Archive.open(url, options), cycle=cycle, attempt=attempt, again=again)


def run_in_archive(
    stage: str,
    config: Any,
    archive: Archive,
    *,
    cycle: str,
    attempt: int = 0,
    again: bool = False,
    once: bool = False,
    parts: Sequence[Json | None] | None = None,
) -> Json:
    """Run a stage of a cycle over an archive; its result, also where it had been run before.

    `config` is the stage's own Config; `attempt` is above 0 where the cycle trains again. A stage that
    has finished is not run again, and its result says so (FINISHED_BEFORE), unless what it read has
    changed since, it reads what may change unseen (its `reads_again(config)`; not with `once`), or `again`
    is said. Where several machines have done its work, `parts` is what they found (`jobs.shares`), and its
    `gather` puts that together and reads no artifact. Raises MissingInputError where a stage before it has not
    finished, ConfigError where it has finished with other settings, and whatever the stage raises (its
    `check_finished(config, result)`, where it has one, when it has finished before).
    """
    require_cycle_name(cycle)
    row = stages.stage(stage)
    settings = settings_json(config)
    place = Place(archive.store, row, cycle, attempt)
    needed, digests = place.inputs()
    marker = read_marker(archive.store, stage, cycle, place.own_attempt)
    module = import_module(row.module)
    waits = getattr(module, "waits", _never)  # for a person's word: it is asked each time
    if marker is not None and marker["inputs"] == digests and not again and not waits(marker["result"]):
        _require_same_settings(marker, settings, archive.store.url)
        if (check_finished := getattr(module, "check_finished", None)) is not None:
            check_finished(config, marker["result"])
        if once or not getattr(module, "reads_again", _never)(config):
            result: Json = marker["result"]
            return result | {FINISHED_BEFORE: True}
    archive.store.delete(marker_key(cycle, stage, place.own_attempt))
    with scratch_folder(f"refrain-{stage}-") as scratch:
        paths = place.bring(needed, scratch) if parts is None else {}
        inputs = Inputs(paths, archive, cycle, _has_sources(archive.store, cycle), attempt)
        outputs = place.outputs(scratch, again=again)
        if parts is None:
            result = dict(module.run(config, inputs, outputs))
        else:
            result = dict(module.gather(config, inputs, outputs, parts))
        written = dict(place.upload(outputs))
    new_marker = {
        "format": formats.MARKER,
        "stage": stage,
        "cycle": cycle,
        "attempt": attempt,
        "config": settings,
        "inputs": digests,
        "outputs": written,
        "result": result,
    }
    archive.store.put(marker_key(cycle, stage, place.own_attempt), orjson.dumps(new_marker, option=orjson.OPT_INDENT_2))
    return result


class OtherSettingsError(ConfigError):
    """A stage has finished with other settings than it is asked for now."""

    def __init__(self, marker: Json, changed: dict[str, tuple[Any, Any]], where: str) -> None:
        """`changed`: by setting, what it was and what is asked for."""
        self.changed = changed
        name, (before, asked) = next(iter(changed.items()))
        super().__init__(
            f"{marker['stage']} of cycle {marker['cycle']} has finished with {name} = {before!r}, not {asked!r}",
            where=where,
            hint="name another --cycle, or say --again to run it anew",
        )


def require_cycle_name(cycle: str) -> None:
    """UsageError for what cannot name a cycle."""
    if not _CYCLE_NAME.fullmatch(cycle):
        raise UsageError(
            f"not a name for a cycle: {cycle!r}",
            where="--cycle",
            hint="up to 253 small letters, digits, '-' and '.', as Kubernetes has them",
        )


def _never(_config: Any) -> bool:
    return False


def _has_sources(store: Store, cycle: str) -> bool:
    """Whether the cycle was given mail to read; one without works on what the log holds."""
    marker = read_marker(store, "parse", cycle)
    return marker is not None and marker["result"]["num_sources"] > 0


def settings_json(config: Any) -> Json:
    """A stage's settings as its marker has them."""
    plain: Json = orjson.loads(orjson.dumps(settings_of(config), default=str))
    return plain


def _require_same_settings(marker: Json, settings: Json, where: str) -> None:
    before = marker["config"]
    names = sorted(settings.keys() | before.keys())
    changed = {name: (before.get(name), settings.get(name)) for name in names if settings.get(name) != before.get(name)}
    if changed:
        raise OtherSettingsError(marker, changed, where)


@dataclass(frozen=True, slots=True)
class _InputFile:
    """An artifact that an earlier stage of the cycle has written."""

    kind: str
    key: str
    sha256: str
    stage: str
    attempt: int
    items: dict[str, str]
    """Of a folder artifact: the digests of its items' markers, by name."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one run of a stage finds what it reads, and leaves what it writes."""

    store: Store
    row: stages.Stage
    cycle: str
    attempt: int

    @property
    def own_attempt(self) -> int:
        """The attempt under which the stage's own artifacts stand: there is one promotion of a cycle."""
        return self.attempt if self.row.is_retrained else 0

    def inputs(self) -> tuple[list[_InputFile], dict[str, str]]:
        """The artifacts that the stage reads, and the digests by kind of all that it reads, the incumbent among it.

        The log is no file of the cycle: what split said of it stands for it.
        """
        files: list[_InputFile] = []
        digests: dict[str, str] = {}
        for kind in self.row.reads:
            for attempt in self._attempts_read(kind):
                marker = self._marker_before(kind, attempt)
                entry = marker["outputs"].get(kind)
                name = kind if attempt == self.attempt or not self.row.is_retrained else f"{kind}-{attempt}"
                if kind == "assignments":
                    said = orjson.dumps(marker["result"], option=orjson.OPT_SORT_KEYS)
                    digests[kind] = hashlib.sha256(said).hexdigest()
                elif entry is not None:  # a stage need not have written all it may write
                    writer = stages.writer(kind).name
                    items = entry.get("items", {})
                    files.append(_InputFile(kind, entry["key"], entry["sha256"], writer, attempt, items))
                    digests[name] = entry["sha256"]
        if self.row.reads_incumbent:
            incumbent = incumbent_of(self.store, self.cycle)
            digests["incumbent"] = incumbent.sha256 if incumbent else ""
        return files, digests

    def _attempts_read(self, kind: str) -> range:
        """The attempts whose artifact is read: select compares those of all, oldest first."""
        if not stages.writer(kind).is_retrained:
            return range(1)
        return range(0 if self.row.name == "select" else self.attempt, self.attempt + 1)

    def _marker_before(self, kind: str, attempt: int) -> Json:
        before = stages.writer(kind).name
        marker = read_marker(self.store, before, self.cycle, attempt)
        if marker is None:
            raise MissingInputError(
                f"{self.row.name} needs {ARTIFACTS[kind].filename}, "
                f"but {before} of cycle {self.cycle} has not finished",
                where=self.store.url,
                hint=f"run `refrain {before} --store {self.store.url} --cycle {self.cycle}` first",
            )
        return marker

    def bring(self, files: list[_InputFile], scratch: Path) -> dict[str, list[Path]]:
        """What the stage reads on this machine, by kind, checked."""
        paths: dict[str, list[Path]] = {}
        for file in files:
            target = scratch / "in" / str(file.attempt) / ARTIFACTS[file.kind].filename
            target.parent.mkdir(parents=True, exist_ok=True)
            brought = self._bring_items(file, target) if ARTIFACTS[file.kind].is_folder else self._bring(file, target)
            paths.setdefault(file.kind, []).append(brought)
        incumbent = incumbent_of(self.store, self.cycle) if self.row.reads_incumbent else None
        if incumbent and (adapter := bring_adapter(self.store, incumbent, scratch / "incumbent")):
            paths["incumbent"] = [adapter]
        return paths

    def _bring(self, file: _InputFile, target: Path) -> Path:
        if _download(self.store, file.key, target) != file.sha256:
            raise self._changed(file, file.key)
        return target

    def _bring_items(self, file: _InputFile, target: Path) -> Path:
        items = StoreItems(self.store, file.key, target)
        target.mkdir(exist_ok=True)
        for name, sha256 in file.items.items():
            if file_digest(items.bring(name, state=False) / COMPLETE) != sha256:
                raise self._changed(file, f"{file.key}/{name}")
        return target

    def _changed(self, file: _InputFile, key: str) -> IntegrityError:
        hint = f"run {file.stage} with --again"
        return IntegrityError(f"it is not what {file.stage} wrote", where=f"{self.store.url}/{key}", hint=hint)

    def outputs(self, scratch: Path, *, again: bool) -> Outputs:
        """Where the stage writes; items of a folder artifact go to the store as they come.

        Items that are there already are checked more closely where it runs `again`: something may be wrong with them.
        """
        kinds = [kind for kind in self.row.writes if kind != "assignments"]
        paths = {kind: scratch / ARTIFACTS[kind].filename for kind in kinds}
        folders = {
            kind: StoreItems(self.store, self._key(kind), paths[kind], thorough=again)
            for kind in kinds
            if ARTIFACTS[kind].is_folder
        }
        return Outputs(paths, folders)

    def _key(self, kind: str) -> str:
        return artifact_key(self.cycle, self.row.name, kind, self.own_attempt)

    def upload(self, outputs: Outputs) -> Iterator[tuple[str, Json]]:
        """Write what the stage left, and say what it is."""
        for kind, path in outputs.paths.items():
            if kind in outputs.folders:
                yield kind, self._published(kind)
            elif path.exists():
                self.store.upload(self._key(kind), path)
                yield kind, {"key": self._key(kind), "sha256": file_digest(path), "num_bytes": path.stat().st_size}

    def _published(self, kind: str) -> Json:
        """What the items are; what `StoreItems.check` raises where one of them is not whole."""
        key = self._key(kind)
        published = StoreItems(self.store, key, Path())
        names = published.names()
        for name in names:
            published.check(name)
        items = {name: hashlib.sha256(self.store.get(f"{key}/{name}/{COMPLETE}")).hexdigest() for name in names}
        return {"key": key, "sha256": hashlib.sha256(orjson.dumps(items)).hexdigest(), "items": items}


def _download(store: Store, key: str, path: Path) -> str:
    digest = hashlib.sha256()
    with store.open(key) as source, path.open("wb") as target:
        while block := source.read(_BLOCK_BYTES):
            digest.update(block)
            target.write(block)
    return digest.hexdigest()
