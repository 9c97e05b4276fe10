"""Devices that are not there: tensors that say they lie on `ipu:0` or `ipu:1`, and are computed with on the CPU.

As on real ones, an operation on tensors of two devices is an error, but for a single number of the CPU's; moving a
tensor is the only way from one to the other. So what works here puts every tensor where it has to be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

FIRST, SECOND = torch.device("ipu:0"), torch.device("ipu:1")
"""A kind that torch knows and has no code for."""
_CPU = torch.device("cpu")
_MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Placed(torch.Tensor):
    """A tensor on a pretended device."""

    held: torch.Tensor
    place: torch.device

    @staticmethod
    def __new__(cls, held: torch.Tensor, place: torch.device) -> Self:
        # torch's own code is told `meta`: of that it knows that it has no memory to look into.
        placed = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), dtype=held.dtype, device="meta"
        )
        placed.held, placed.place = held, place
        return placed

    device = property(lambda self: self.place)

    @property
    def data(self) -> Placed:
        return Placed(self.held, self.place)

    @data.setter
    def data(self, other: Placed) -> None:
        self.held, self.place = other.held, other.place

    def tolist(self) -> Any:
        return self.held.tolist()

    def __repr__(self) -> str:
        return f"{self.held!r} on {self.place}"

    @classmethod
    def __torch_dispatch__(cls, func: Any, _types: Any, _args: Any = (), _kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: not within `pretended`")


class _Operations(TorchDispatchMode):
    """All of them: those too that no pretended tensor takes part in yet, which make one or move one there."""

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._can_decompose() and func not in _MOVES:  # in inference mode torch has not done it
            with self:
                return func.decompose(*args, **kwargs or {})
        return _computed(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Those that torch would take apart by the device that it was told of."""

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and kwargs.get("device") is not None:
            place = kwargs.pop("device")
            return func(*args, **kwargs).to(place)
        return _computed(func, args, kwargs) if func is scaled_dot_product_attention else func(*args, **kwargs)


@contextmanager
def pretended() -> Iterator[None]:
    """Within it tensors can be put there."""
    with _Operations(), _Functions():
        yield


def _computed(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
    asked = kwargs.get("device")
    place = torch.device(asked) if asked is not None else _place_of(func, tensors)
    own = dict(kwargs) | ({"device": _CPU} if asked is not None else {})
    held_args, held_kwargs = tree_map(lambda one: one.held if isinstance(one, Placed) else one, (tuple(args), own))
    with _disable_current_modes():
        result = func(*held_args, **held_kwargs)
    if isinstance(func, torch._ops.OpOverload) and func._schema.is_mutable:
        return kwargs.get("out", args[0])
    if place == _CPU:
        return result
    return tree_map(lambda one: Placed(one, place) if isinstance(one, torch.Tensor) else one, result)


def _place_of(func: Any, tensors: Sequence[torch.Tensor]) -> torch.device:
    if func in _MOVES:
        return tensors[0].device
    places = {one.device for one in tensors if one.dim() or one.device != _CPU}
    if len(places) > 1:
        raise RuntimeError(f"{func}: its tensors are on {', '.join(sorted(map(str, places)))}")
    return next(iter(places), _CPU)
