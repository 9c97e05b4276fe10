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
class Update:
    """What an adapter adds to one weight: scale · B A."""

    name: str
    weight: torch.nn.Parameter
    a: torch.Tensor
    b: torch.Tensor
    scale: float
    transposed: bool
    """GPT-2's layers hold their weights as [in, out]."""

    def add(self, original: torch.Tensor, out: torch.Tensor) -> None:
        """Put the original weight and the update into `out`; summed in fp32 whatever the model's precision."""
        first, second = (self.a.T, self.b.T) if self.transposed else (self.b, self.a)
        first, second = first.to(out.device).float(), second.to(out.device).float()
        if out.dtype == torch.float32 and original.device == out.device:
            torch.addmm(original, first, second, alpha=self.scale, out=out)  # without a copy of its own
        else:
            out.copy_(original.to(out.device).float().addmm_(first, second, alpha=self.scale))


class _Place:
    """A weight that adapters touch: the base's own, and where a merged one is put."""

    def __init__(self, weight: torch.nn.Parameter) -> None:
        self._weight = weight
        own = weight.data
        if own.is_cuda and torch.cuda.mem_get_info(own.device)[0] < 8 * own.nbytes:
            self._original, self._merged = own.to("cpu", copy=True), own  # the GPU has no room for both
        else:
            self._original, self._merged = own, torch.empty_like(own)

    def merge(self, update: Update) -> None:
        """Base and update."""
        update.add(self._original, self._merged)
        self._weight.data = self._merged

    def restore(self) -> None:
        """The base's own."""
        if self._original.device == self._merged.device:
            self._weight.data = self._original
        else:
            self._merged.copy_(self._original)


class AdapterSwitch:
    """One loaded base model, and adapters merged into it in turn, one at a time, of any ranks.

    Merged, an adapter costs nothing in the forward pass. The base's own weights are never written to (but on
    a GPU without room for both, where they wait in the machine's memory), so that the base is bit-equal
    whenever no adapter is in use. It takes as much memory again as the layers that adapters touch.
    """

    def __init__(self, model: Any, base: Base) -> None:
        self._model = model
        self._base = base
        self._places: dict[str, _Place] = {}

    def use(self, folder: Path | None) -> Any:
        """The model with the adapter merged into it, or as the base is for None.

        For errors see `jobs.ml.adapters.load_adapter`; after one the model is as the base is.
        """
        for place in self._places.values():
            place.restore()
        if folder is None:
            return self._model
        try:
            with torch.no_grad():
                for update in adapter_updates(self._model, folder, self._base):
                    if update.name not in self._places:
                        self._places[update.name] = _Place(update.weight)
                    self._places[update.name].merge(update)
        except BaseException:
            self.use(None)
            raise
        return self._model


def adapter_updates(model: Any, folder: Path, base: Base) -> list[Update]:
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


def _update(model: Any, name: str, pair: tuple[torch.Tensor, torch.Tensor], settings: Json) -> Update:
    a, b = pair
    try:
        weight = model.get_submodule(name).weight
    except AttributeError as error:
        raise ValueError(f"there is no {name}") from error
    if not weight.is_floating_point():
        raise ConfigError("adapters cannot be merged into a quantized model", where=name, hint="load it as it is")
    shape = b.shape[0], a.shape[1]
    expected = tuple(weight.T.shape if settings["fan_in_fan_out"] else weight.shape)
    if shape != expected:
        raise ValueError(f"{name} is {expected} there, and {shape} in the adapter")
    return Update(name, weight, a, b, scale_of(settings), settings["fan_in_fan_out"])


def merge_adapter(base: Base, folder: Path, out: Path) -> None:
    """Write the base model with an adapter merged into it, in the precision of the base's files.

    An ordinary model of Hugging Face's layout, its tokenizer included, and `refrain.json`, which says
    what it was made of. See `load_adapter` for errors; OutputError where the folder is not empty.
    """
    require_adapter(folder, base)
    new_folder(out, lambda target: _write_merged(base, folder, target))


def _write_merged(base: Base, folder: Path, target: Path) -> None:
    model = load_model(base, device=torch.device("cpu"), precision="stored")
    with torch.no_grad():
        for update in adapter_updates(model, folder, base):
            update.add(update.weight.data, update.weight.data)
    with quiet_libraries():
        model.save_pretrained(target)
    for path in _kept_as_they_are(base.folder):
        shutil.copyfile(path, target / path.name)
    write_json(target / MERGED, read_origin(folder) | {"adapter_sha256": adapter_digest(folder)})


def _kept_as_they_are(folder: Path) -> Iterator[Path]:
    for name in (*TOKENIZER_FILES, "generation_config.json"):
        if (folder / name).is_file():
            yield folder / name
