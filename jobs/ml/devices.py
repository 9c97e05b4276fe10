"""Where and in which precision a model computes, and what makes it compute the same again."""

from __future__ import annotations

import os
import random

import numpy as np
import torch

from jobs.contracts.errors import ConfigError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def choose_device(asked: str | None = None) -> torch.device:
    """The device of that name (`cuda`, `cuda:1`, `mps`, `cpu`); None: the first of these that is there.

    Where several processes share a node, `cuda` is the one of this process (LOCAL_RANK). ConfigError
    for one that is not there.
    """
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if asked is None:
        asked = next(kind for kind, count in counts.items() if count)
    kind, _, number = asked.partition(":")
    index = int(number) if number.isdecimal() else None
    if kind == "cuda" and not number:
        index = int(os.environ.get("LOCAL_RANK", "0"))
    if (number and index is None) or (index or 0) >= counts.get(kind, 0):
        there = ", ".join(name for name, count in counts.items() if count)
        raise ConfigError(f"no such device here: {asked}", where="device", hint=f"there is: {there}")
    return torch.device(kind, index) if kind == "cuda" else torch.device(kind)


def dtype_for(precision: str, device: torch.device) -> torch.dtype:
    """The type of frozen weights and activations: what was asked for where the device computes in it.

    A CPU always has fp32; elsewhere fp16 stands in for bf16 where there is none. ConfigError for another word.
    """
    if precision not in _DTYPES:
        raise ConfigError(f"no such precision: {precision!r}", where="precision", hint=f"one of {', '.join(_DTYPES)}")
    dtype = _DTYPES[precision]
    if device.type == "cpu":
        return torch.float32
    if dtype is torch.bfloat16 and not _computes_in_bf16(device):
        return torch.float16
    return dtype


def _computes_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.backends.mps.is_macos_or_newer(14, 0))


def make_deterministic(seed: int) -> None:
    """Seed python, numpy and torch, and refuse operations that would not give the same bits again.

    To be called before CUDA starts: cuBLAS reads its setting then.
    """
    os.environ.setdefault(_CUBLAS, ":4096:8")
    torch.use_deterministic_algorithms(mode=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a second pass over every new tensor, for nothing
    torch.backends.cudnn.benchmark = False  # it chooses by the clock
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
