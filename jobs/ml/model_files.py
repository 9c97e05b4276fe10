"""The files of a model in Hugging Face's layout: which of them count, whether they are whole, and their digest."""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

import orjson

from jobs.contracts.errors import ConfigError, InputError, MissingInputError
from jobs.contracts.records import Json, short_digest
from jobs.files import read_json
from jobs.items import file_digest

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "chat_template.jinja"),
)
"""What a tokenizer may consist of."""

_WANTED = (CONFIG, "generation_config.json", "model*.safetensors", INDEX, *TOKENIZER_FILES)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_NOISE = ("_name_or_path", "transformers_version")
"""Of a configuration: what says who wrote it, and not what it is."""


def wanted(names: Iterable[str]) -> list[str]:
    """Of the names of a model's files those that we read; none in folders below, and never a pickle."""
    return sorted(name for name in names if "/" not in name and _matches(name, _WANTED))


def require_safe(names: Iterable[str], where: str) -> None:
    """ConfigError where the weights are pickled and nothing else, MissingInputError where there are none."""
    names = list(names)
    if CONFIG not in names:
        raise MissingInputError(f"no {CONFIG}: not a model of Hugging Face's layout", where=where)
    if WEIGHTS in names or INDEX in names:
        return
    if any(_matches(name, _PICKLES) for name in names):
        raise ConfigError(
            "its weights are pickled, and pickles are never loaded: they can run any code",
            where=where,
            hint="convert them: load the model where it is safe, and save_pretrained(…) writes safetensors",
        )
    raise MissingInputError(f"neither {WEIGHTS} nor {INDEX}: the model has no weights", where=where)


def require_model(folder: Path, name: str) -> None:
    """See `require_safe`; and InputError for a file that is damaged or cut short."""
    require_safe((path.name for path in folder.iterdir() if path.is_file()), name)
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or "model_type" not in config:
        raise InputError("no model's configuration: it has no model_type", where=str(folder / CONFIG))
    for path in weight_files(folder):
        require_whole(path)
    if not any((folder / one).is_file() for one in TOKENIZER_FILES):
        raise MissingInputError(
            "no tokenizer beside the weights", where=str(folder), hint="tokenizer.save_pretrained(…) writes one"
        )


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, as transformers chooses them: one, or those that the index names."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index: Json = read_json(folder / INDEX)
    try:
        names = sorted(set(index["weight_map"].values()))
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError("not an index of weights", where=str(folder / INDEX)) from error
    if not all(isinstance(name, str) and _matches(name, ("*.safetensors",)) and "/" not in name for name in names):
        raise ConfigError("it names files that are not safetensors beside it", where=str(folder / INDEX))
    return [folder / name for name in names]


def require_whole(path: Path, hint: str = "fetch it again") -> None:
    """InputError for a safetensors file that is damaged or cut short; only its header is read. `hint`: what to do."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except FileNotFoundError as error:
        raise MissingInputError("no such file", where=str(path)) from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"the file is damaged or cut short: {error}", where=str(path), hint=hint) from error


def num_weights(folder: Path) -> int:
    """How many numbers a model's weights are, by the headers of their files."""
    from safetensors import safe_open

    number = 0
    for path in weight_files(folder):
        with safe_open(path, framework="np") as file:
            number += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return number


def model_digest(folder: Path) -> str:
    """Short digest of a model's configuration and weights, wherever it lies."""
    config: Json = read_json(folder / CONFIG)
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        digests = list(pool.map(file_digest, weight_files(folder)))
    kept = {key: value for key, value in config.items() if key not in _NOISE}
    return short_digest(orjson.dumps([kept, digests], option=orjson.OPT_SORT_KEYS))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
