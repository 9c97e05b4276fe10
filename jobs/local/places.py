"""Where the things are that a cycle's file names: paths made absolute, the store's settings, the base's commit."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import orjson

from jobs.contracts.artifacts import BASE_KEY, artifact_key
from jobs.contracts.cycle import RetrainCycle
from jobs.contracts.cycle.data import Source, StoreSpec
from jobs.contracts.cycle.learning import ModelSpec
from jobs.contracts.errors import MissingInputError
from jobs.contracts.markers import newest_indexed_cycle, read_marker
from jobs.contracts.store import Store, StoreOptions, store_folder

_COMMIT = re.compile(r"[0-9a-f]{40}")
USES_BASE = frozenset({"split", "train", "evaluate"})
"""Stages whose settings name the base model: the others need not know its commit, nor reach a hub."""
_PATH_STARTS = ("/", "./", "../", "~")


def located(cycle: RetrainCycle, folder: Path) -> RetrainCycle:
    """The cycle with its relative paths made absolute: they are meant from `folder`, where its file lies.

    Paths are `store.url`, the places of mail, and models that begin with `/`, `./`, `../` or `~` or are folders
    there; any other model is a name on the hub. URLs stay as they are.
    """
    spec = cycle.spec
    store = spec.store.model_copy(update={"url": _path(spec.store.url, folder)})
    model = _with_revision(spec.model.model_copy(update={"base": _model(spec.model.base, folder)}))
    embedding_model = _model(spec.evaluation.embedding_model, folder)
    evaluation = spec.evaluation.model_copy(update={"embedding_model": embedding_model})
    sources = [_source(source, folder) for source in spec.sources]
    update = {"store": store, "model": model, "evaluation": evaluation, "sources": sources}
    return cycle.model_copy(update={"spec": spec.model_copy(update=update)})


def _source(source: Source, folder: Path) -> Source:
    places = source.model_dump(exclude_none=True)
    return Source(**{kind: place if kind == "imap" else _path(place, folder) for kind, place in places.items()})


def _path(place: str, folder: Path) -> str:
    if "://" in place:
        return place
    return os.path.normpath(folder.absolute() / Path(place).expanduser())


def _model(name: str, folder: Path) -> str:
    if name.startswith("file://"):
        return str(store_folder(name))
    if "://" in name:
        return name
    path = _path(name, folder)
    return path if name.startswith(_PATH_STARTS) or Path(path).is_dir() else name


def _with_revision(model: ModelSpec) -> ModelSpec:
    """`org/model@revision` in two fields, unless the revision has been given in its own."""
    name, revision = name_and_revision(model.base)
    if revision is None or model.revision:
        return model
    return model.model_copy(update={"base": name, "revision": revision})


def store_options(store: StoreSpec) -> StoreOptions:
    """How to reach the archive's store: what the environment says, and where it says nothing, the cycle."""
    said = StoreOptions.from_environment()
    return replace(
        said,
        sse=said.sse or store.sse,
        sse_kms_key_id=said.sse_kms_key_id or store.sse_kms_key_id,
    )


def reach(store: StoreSpec) -> StoreOptions:
    """Set up this process for the cycle's S3 service, and say how its archive is reached.

    Mail and models at `s3://` come from the same service, by the variables that every AWS tool reads. Those
    that are set already win: a service may have another address here than where the file was written.
    """
    if store.endpoint and not os.environ.get("AWS_ENDPOINT_URL_S3"):
        os.environ.setdefault("AWS_ENDPOINT_URL", store.endpoint)
    if store.region:
        os.environ.setdefault("AWS_REGION", store.region)
    if store.addressing_style != "auto":
        os.environ.setdefault("REFRAIN_S3_ADDRESSING_STYLE", store.addressing_style)
    return store_options(store)


def pinned(cycle: RetrainCycle, store: Store) -> RetrainCycle:
    """The cycle with the commit of a base model on the hub, where its file names none.

    It is the one that the archive's adapters are of; else the one that this cycle has begun with; else the
    newest. Models elsewhere have no commit.
    """
    model = cycle.spec.model
    if not is_on_hub(model.base) or (model.revision and _COMMIT.fullmatch(model.revision)):
        return cycle
    revision = _known_revision(model, cycle.metadata.name, store) or _found_revision(model)
    spec = cycle.spec.model_copy(update={"model": model.model_copy(update={"revision": revision})})
    return cycle.model_copy(update={"spec": spec})


def pinned_embedding(cycle: RetrainCycle, store: Store) -> RetrainCycle:
    """The cycle with the commit of an embedding model on the hub behind its name, where its file names none.

    It is the one that the cycle's own index, or else the archive's newest, has been made with: passages embedded
    by another one would all be embedded again. Without an index it is left to the hub.
    """
    evaluation = cycle.spec.evaluation
    name, revision = name_and_revision(evaluation.embedding_model)
    known = None if revision else _indexed_with(name, cycle.metadata.name, store)
    if known is None:
        return cycle
    update = {"evaluation": evaluation.model_copy(update={"embedding_model": f"{name}@{known}"})}
    return cycle.model_copy(update={"spec": cycle.spec.model_copy(update=update)})


def name_and_revision(model: str) -> tuple[str, str | None]:
    """`org/model@revision` in two; a model elsewhere has no revision."""
    name, separator, revision = model.rpartition("@")
    return (name, revision) if separator and is_on_hub(model) else (model, None)


def _indexed_with(name: str, cycle: str, store: Store) -> str | None:
    own = read_marker(store, "index", cycle)
    if own is not None:  # it goes on with the settings that it has finished with
        known = own["config"]
        return known["embedding_revision"] if known["embedding_model"] == name else None
    newest = newest_indexed_cycle(store)
    key = artifact_key(newest, "index", "vector_index") if newest else ""
    if not key or not store.exists(key):
        return None
    index = orjson.loads(store.get(key))
    return index.get("revision") if index.get("model") == name else None


def is_on_hub(base: str) -> bool:
    """Whether a located base model is a name on the hub."""
    return "://" not in base and not Path(base).is_absolute()


def require_base(cycle: RetrainCycle, file: str = "") -> None:
    """MissingInputError where the base model of a located cycle is a folder that is not there; `file` is its file."""
    base = cycle.spec.model.base
    if is_on_hub(base) or "://" in base or Path(base).is_dir():
        return
    raise MissingInputError(
        f"there is no folder {base}",
        where=": ".join(filter(None, (file, "spec.model.base"))),
        hint="put the base model there (config.json, model.safetensors, tokenizer.json), or name another: a folder, "
        "org/model on the hub, or s3://…",
    )


def _known_revision(model: ModelSpec, cycle: str, store: Store) -> str | None:
    if model.revision:  # a branch or a tag: what it stands for is asked anew, but not within a cycle
        return _begun_with(model, cycle, store)
    if store.exists(BASE_KEY):
        fixed = orjson.loads(store.get(BASE_KEY))
        if fixed["base"] == model.base and fixed["revision"]:
            return str(fixed["revision"])
    return _begun_with(model, cycle, store)


def _begun_with(model: ModelSpec, cycle: str, store: Store) -> str | None:
    """The commit whose tokenizer this cycle's split has used."""
    marker = read_marker(store, "split", cycle)
    name, _, revision = (marker["config"]["tokenizer"] or "").rpartition("@") if marker else ("", "", "")
    return revision if name == model.base else None


def _found_revision(model: ModelSpec) -> str:
    """The commit on the hub; of the model's files only its configuration is fetched."""
    from jobs.ml.fetching import from_hub

    return from_hub(model.base, model.revision, choose=lambda _names, _where: ["config.json"])[1]
