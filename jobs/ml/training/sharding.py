"""A model whose weights are cut over the processes (FSDP2), for those that one device cannot hold.

Trainer's own `fsdp` option trains copies on a CPU and says nothing, so torch's `fully_shard` is called here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def shard(model: Any, device: torch.device, num_processes: int) -> None:
    """Cut a LossModel's weights over all processes, decoder layer by decoder layer; the rest as one part.

    A layer's weights are whole only while it computes. Gradients are averaged over the processes, as with copies.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (num_processes,))
    for layer in _layers(model.causal_model.get_decoder()):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.to(device))


def is_sharded(model: Any) -> bool:
    """Whether `shard` was called on it."""
    return hasattr(model, "set_requires_gradient_sync")


def local_bytes(model: Any) -> int:
    """Bytes of the weights that this process holds."""
    return sum(
        (one.to_local() if hasattr(one, "to_local") else one).numel() * one.element_size() for one in model.parameters()
    )


def _layers(decoder: Any) -> Any:
    """The decoder's layers: the longest list of modules in it."""
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=())
