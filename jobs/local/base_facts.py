"""What a base model's files say of its size, without loading it: config.json and the headers of its weights.

Nothing is fetched: of a model in a store only the headers are read, and one on the hub is looked for in
the cache here.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import orjson

from jobs.contracts.cycle.learning import Lora, ModelSpec
from jobs.contracts.errors import InputError
from jobs.contracts.folder_store import FolderStore
from jobs.contracts.store import Store, StoreOptions, open_store
from jobs.local.places import is_on_hub

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
_NO_ADAPTER = ("embed", "wte", "wpe", "lm_head")
"""Of 2-D weights: those that are no linear layer, or the output, which `all-linear` leaves out."""


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """Numbers of a base model."""

    num_parameters: int
    num_layers: int
    width: int
    """Of the hidden states."""
    vocabulary: int
    linear: dict[str, tuple[int, int]]
    """Shapes of the linear layers that an adapter may lie on, by name."""

    def num_trainable(self, lora: Lora) -> int:
        """Parameters of a LoRA adapter: rank · (inputs + outputs) of each layer that it lies on (arXiv:2106.09685)."""
        chosen = lora.target_modules.replace(" ", "").split(",")
        return sum(
            lora.rank * sum(shape)
            for name, shape in self.linear.items()
            if chosen == ["all-linear"] or any(name == one or name.endswith(f".{one}") for one in chosen)
        )


def base_facts(model: ModelSpec, options: StoreOptions) -> BaseFacts | None:
    """The numbers of a located base model; None where its files are not within reach without fetching them.

    Raises what the store raises, and InputError for files that are not a model's.
    """
    store = _store_of(model, options)
    if store is None:
        return None
    names = [key for key in store.list() if "/" not in key]
    config = _text_config(orjson.loads(store.get("config.json")))
    shapes = {
        name: shape for file in names if fnmatch(file, "model*.safetensors") for name, shape in _shapes(store, file)
    }
    linear = {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in shapes.items()
        if len(shape) == 2 and not any(word in name for word in _NO_ADAPTER)
    }
    return BaseFacts(
        num_parameters=sum(map(math.prod, shapes.values())),
        num_layers=_first(config, "num_hidden_layers", "n_layer"),
        width=_first(config, "hidden_size", "n_embd"),
        vocabulary=_first(config, "vocab_size"),
        linear=linear,
    )


def _store_of(model: ModelSpec, options: StoreOptions) -> Store | None:
    if not is_on_hub(model.base):
        return open_store(model.base, options, read_only=True)
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        return None
    try:
        folder = snapshot_download(model.base, revision=model.revision, local_files_only=True)
    except (OSError, ValueError):  # it is not here
        return None
    return FolderStore(Path(folder), read_only=True)


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that describes the language model."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _first(config: dict[str, Any], *names: str) -> int:
    return next((int(config[name]) for name in names if name in config), 0)


def _shapes(store: Store, file: str) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes of a safetensors file: a length of 8 bytes, little-endian, and a header of JSON."""
    with store.open(file) as stream:
        head = stream.read(_LENGTH_BYTES)
        length = struct.unpack("<Q", head)[0] if len(head) == _LENGTH_BYTES else 0
        data = stream.read(length) if 0 < length <= _MAX_HEADER_BYTES else b""
    try:
        header = orjson.loads(data)
        yield from ((name, tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError("not a safetensors file", where=f"{store.url}/{file}", hint="fetch the model again") from error
