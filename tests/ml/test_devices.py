from __future__ import annotations

import os
import random

import numpy as np
import pytest
import torch

from jobs.contracts.errors import ConfigError
from jobs.ml.devices import choose_device, dtype_for, make_deterministic

CPU = torch.device("cpu")


def test_the_first_device_that_is_there(monkeypatch):
    assert choose_device("cpu") == CPU
    for module, function, count in (("cuda", "device_count", 2), ("backends.mps", "is_available", 1)):
        monkeypatch.setattr(f"torch.{module}.{function}", lambda count=count: count)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert choose_device() == torch.device("cuda", 0)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("cuda") == torch.device("cuda", 1)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert choose_device() == torch.device("mps")


@pytest.mark.parametrize("asked", ["cuda:9", "tpu", "cuda:x", "", "cpu:1"])
def test_a_device_that_is_not_there(asked):
    with pytest.raises(ConfigError, match="no such device here") as raised:
        choose_device(asked)
    assert "cpu" in raised.value.hint


def test_precision(monkeypatch):
    assert [dtype_for(name, CPU) for name in ("bf16", "fp16", "fp32")] == [torch.float32] * 3
    gpu = torch.device("cuda", 0)
    for there in (True, False):
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda there=there, **_: there)
        assert dtype_for("bf16", gpu) == (torch.bfloat16 if there else torch.float16)
        assert dtype_for("fp32", gpu) == torch.float32
    with pytest.raises(ConfigError, match="no such precision"):
        dtype_for("int8", CPU)


def test_the_same_seed_draws_the_same_numbers(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)

    def drawn(seed: int) -> tuple[float, float, float]:
        make_deterministic(seed)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    try:
        assert drawn(2**40 + 7) == drawn(2**40 + 7) != drawn(2**40 + 8)
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # the other one that is deterministic
        make_deterministic(0)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    finally:
        torch.use_deterministic_algorithms(mode=False)
