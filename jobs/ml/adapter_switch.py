"""Adapters merged into a base model's weights: in turn in memory, or for good in files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jobs.contracts.errors import ConfigError, InputError
from jobs.contracts.records import Json
from jobs.files import write_json
from jobs.ml.adapter_files import adapter_digest, new_folder, read_origin, require_adapter, scale_of
from jobs.ml.adapter_weights import read_weights
from jobs.ml.base_model import Base, load_model
from jobs.ml.model_files import TOKENIZER_FILES
from jobs.ml.quiet import quiet_libraries

_PREFIX = "base_model.model."
MERGED = "refrain.json"
"""In a merged model's folder: of which base and adapter it is."""


@dataclass(frozen=True, slots=True)
class _Update:
    """What an adapter adds to one weight: scale · B A."""

    name: str
    weight: torch.Tensor
    a: torch.Tensor
    b: torch.Tensor
    scale: float
    transposed: bool
    """GPT-2's layers hold their weights as [in, out]."""

    def added_to(self, original: torch.Tensor) -> torch.Tensor:
        """The merged weight, summed in fp32 whatever the model's precision."""
        device = self.weight.device
        update = self.scale * (self.b.to(device).float() @ self.a.to(device).float())
        return original.to(device).float() + (update.T if self.transposed else update)


class AdapterSwitch:
    """One loaded base model, and adapters merged into it in turn, one at a time, of any ranks.

    Merged, an adapter costs nothing in the forward pass. The weights that adapters touch are kept as they
    were and copied back, so that the base is bit-equal whenever no adapter is in use.
    """

    def __init__(self, model: Any, base: Base) -> None:
        self._model = model
        self._base = base
        self._originals: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def use(self, folder: Path | None) -> Any:
        """The model with the adapter merged into it, or as the base is for None.

        For errors see `jobs.ml.adapters.load_adapter`; after one the model is as the base is.
        """
        self._restore()
        if folder is None:
            return self._model
        updates = _updates(self._model, folder, self._base)
        try:
            for update in updates:
                if update.name not in self._originals:
                    self._originals[update.name] = _kept(update.weight)
                update.weight.copy_(update.added_to(self._originals[update.name]))
        except BaseException:
            self._restore()
            raise
        return self._model

    def _restore(self) -> None:
        for name, original in self._originals.items():
            self._model.get_submodule(name).weight.data.copy_(original)


def _kept(weight: torch.Tensor) -> torch.Tensor:
    """A copy: beside the weight, or in the machine's memory where a GPU has little left."""
    if weight.is_cuda and torch.cuda.mem_get_info(weight.device)[0] < 8 * weight.nbytes:
        return weight.to("cpu", copy=True)
    return weight.clone()


def _updates(model: Any, folder: Path, base: Base) -> list[_Update]:
    """All that an adapter changes, checked before anything is changed."""
    settings = require_adapter(folder, base)
    weights = read_weights(folder, settings)
    layers = sorted({name.partition(".lora_")[0] for name in weights})
    updates = []
    for layer in layers:
        try:
            pair = weights[f"{layer}.lora_A.weight"], weights[f"{layer}.lora_B.weight"]
            updates.append(_update(model, layer.removeprefix(_PREFIX), pair, settings))
        except KeyError as error:
            raise InputError(f"the adapter has no {error.args[0]}", where=str(folder)) from error
        except ValueError as error:
            raise InputError(f"the adapter does not fit the base model: {error}", where=str(folder)) from error
    return updates


def _update(model: Any, name: str, pair: tuple[torch.Tensor, torch.Tensor], settings: Json) -> _Update:
    a, b = pair
    try:
        weight = model.get_submodule(name).weight.data
    except AttributeError as error:
        raise ValueError(f"there is no {name}") from error
    if not weight.is_floating_point():
        raise ConfigError("adapters cannot be merged into a quantized model", where=name, hint="load it as it is")
    shape = b.shape[0], a.shape[1]
    expected = tuple(weight.T.shape if settings["fan_in_fan_out"] else weight.shape)
    if shape != expected:
        raise ValueError(f"{name} is {expected} there, and {shape} in the adapter")
    return _Update(name, weight, a, b, scale_of(settings), settings["fan_in_fan_out"])


def merge_adapter(base: Base, folder: Path, out: Path) -> None:
    """Write the base model with an adapter merged into it, in the precision of the base's files.

    An ordinary model of Hugging Face's layout, its tokenizer included, and `refrain.json`, which says
    what it was made of. See `load_adapter` for errors; OutputError where the folder is not empty.
    """
    require_adapter(folder, base)
    new_folder(out, lambda target: _write_merged(base, folder, target))


@torch.no_grad()
def _write_merged(base: Base, folder: Path, target: Path) -> None:
    model = load_model(base, device=torch.device("cpu"), precision="stored")
    for update in _updates(model, folder, base):
        update.weight.copy_(update.added_to(update.weight))
    with quiet_libraries():
        model.save_pretrained(target)
    for path in _kept_as_they_are(base.folder):
        shutil.copyfile(path, target / path.name)
    write_json(target / MERGED, read_origin(folder) | {"adapter_sha256": adapter_digest(folder)})


def _kept_as_they_are(folder: Path) -> Iterator[Path]:
    for name in (*TOKENIZER_FILES, "generation_config.json"):
        if (folder / name).is_file():
            yield folder / name
