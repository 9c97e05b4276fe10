"""A base model to be asked, on one device; or over all GPUs here, layer by layer, where one cannot hold it.

Layers are dealt out evenly and called in turn, by `device_map="auto"` of transformers and accelerate: it costs no
more time than one GPU would take, and saves none. Nothing is put into the machine's memory or on its disk instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from jobs.contracts.errors import ConfigError
from jobs.ml.base_model import Base, load_model
from jobs.ml.devices import choose_device, dtype_for
from jobs.ml.model_files import num_weights

_SHARE = 0.9
"""Of a GPU's free memory that weights may take; the rest is for batches and answers."""
_GIB = 1 << 30


def load_to_ask(base: Base, *, device: str | None, precision: str) -> Any:
    """The frozen model on the device of that name (`choose_device`), or over all GPUs, where none of them is named.

    ConfigError where all together cannot hold it, and what `load_model` raises.
    """
    chosen = choose_device(device)
    is_free = device in (None, "cuda") and chosen.type == "cuda" and torch.cuda.device_count() > 1
    spread = _spread(base, chosen, precision) if is_free else None
    model = load_model(base, device=chosen, precision=precision, spread=spread)
    if spread and not spread.keys() >= set(model.hf_device_map.values()):  # a layer is on one GPU as a whole
        hint = "give the pod more or larger GPUs"
        raise ConfigError("no GPU has room for the last of the base model's layers", where="device", hint=hint)
    return model


def spread_note(model: Any) -> str | None:
    """What a user is told of a model whose layers are on several GPUs; None for any other."""
    places = dict.fromkeys(getattr(model, "hf_device_map", {}).values())
    if len(places) < 2:
        return None
    named = ", ".join(f"cuda:{one}" for one in places)
    return f"one GPU cannot hold the base model: its layers are spread over {named}"


def _spread(base: Base, chosen: torch.device, precision: str) -> dict[int, int] | None:
    num_bytes = num_weights(base.folder) * dtype_for(precision, chosen).itemsize
    if fits(num_bytes, torch.cuda.mem_get_info(chosen)[0]):
        return None
    return shares(num_bytes, [torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count())])


def fits(num_bytes: int, free_bytes: int) -> bool:
    """Whether one GPU can hold so many bytes of weights, and has room for work beside them."""
    return num_bytes <= free_bytes * _SHARE


def shares(num_bytes: int, free_bytes: Sequence[int]) -> dict[int, int]:
    """The bytes of weights that each GPU may hold, by its number; ConfigError where that is not enough. Pure."""
    most = {number: int(free * _SHARE) for number, free in enumerate(free_bytes)}
    if sum(most.values()) < num_bytes:
        raise ConfigError(
            f"the base model takes {num_bytes / _GIB:,.1f} GiB, and the {len(most)} GPUs here have "
            f"{sum(free_bytes) / _GIB:,.1f} GiB free, of which weights may take {_SHARE:.0%}",
            where="device",
            hint="give the pod more or larger GPUs",
        )
    return most
