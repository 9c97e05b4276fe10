"""What a machine has to train on."""

from __future__ import annotations


def accelerators() -> list[str]:
    """Name and memory of every accelerator that torch can use; empty where there is none. ImportError without torch."""
    import torch

    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return [f"{device.name}, {device.total_memory / 2**30:.0f} GiB" for device in found]
    if torch.backends.mps.is_available():
        return ["Apple GPU"]
    return []
