"""Adapters beside each other over one loaded base model, none of them merged: what serves while it changes over.

A layer's output gets `B A x` of the adapter at work added to it, by a hook, as PEFT adds it. Adapters come and go
while others are at work, and none touches the base model's weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear

from jobs.ml.adapter_switch import adapter_updates
from jobs.ml.base_model import Base


@dataclass(frozen=True, slots=True)
class _Pair:
    """A layer's two matrices, in the model's precision and on its device; the scale is in the second one."""

    a: torch.Tensor
    b: torch.Tensor


Adapter = Mapping[str, _Pair]
"""By layer. Its memory goes when nobody holds it any more."""

BARE: Adapter = {}
"""The base model as it is."""


class AdapterSet:
    """One model, and which adapter is at work in it."""

    def __init__(self, model: Any, base: Base) -> None:
        self._model = model
        self._base = base
        self._hooked: set[str] = set()
        self._at_work: Adapter = BARE

    def load(self, folder: Path) -> Adapter:
        """An adapter, checked, ready to be put to work. It changes nothing, and may run beside the model's work.

        For errors see `jobs.ml.adapters.load_adapter`.
        """
        pairs = {}
        with torch.no_grad():
            for update in adapter_updates(self._model, folder, self._base):
                place = {"device": update.weight.device, "dtype": update.weight.dtype}
                pairs[update.name] = _Pair(update.a.to(**place), (update.b.float() * update.scale).to(**place))
        return pairs

    def use(self, adapter: Adapter) -> None:
        """Put an adapter to work in place of the one before. To be called where the model is called, not beside it."""
        for name in adapter.keys() - self._hooked:
            self._model.get_submodule(name).register_forward_hook(partial(self._add, name))
            self._hooked.add(name)
        self._at_work = adapter

    def _add(self, name: str, _layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        pair = self._at_work.get(name)
        if pair is None:
            return output
        # Of a model over several GPUs a layer's input may come from another one.
        return output + linear(linear(inputs[0].to(output.device), pair.a), pair.b)
