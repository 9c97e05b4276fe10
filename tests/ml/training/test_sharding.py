"""A model in 16 bits, its adapter in fp32, cut over two processes: the gradients of one that holds it all."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

from jobs.ml.adapters import add_adapter
from jobs.ml.training.fast_lora import speed_up
from jobs.ml.training.loss_model import LossModel
from jobs.ml.training.sharding import local_bytes, shard

SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 512}


def _loss_model(*, saves_memory: bool) -> LossModel:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, num_hidden_layers=3)).to(torch.bfloat16)
    model.requires_grad_(requires_grad=False)
    peft_model = add_adapter(model, rank=4, alpha=8.0, dropout=0.0, seed=1)
    for name, parameter in peft_model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.05)
    if saves_memory:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    speed_up(peft_model)
    return LossModel(peft_model).train()


def _gradients(model: LossModel, texts: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    loss = model(input_ids=texts, labels=texts)
    loss.backward()
    named = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    whole = {name: one.full_tensor() if hasattr(one, "full_tensor") else one for name, one in named.items()}
    return loss.item(), whole


def _texts() -> torch.Tensor:
    return torch.randint(512, (2, 40), generator=torch.Generator().manual_seed(2))


def _process(rank: int, port: int, folder: Path, saves_memory: bool) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = _loss_model(saves_memory=saves_memory)
    whole = local_bytes(model)
    shard(model, torch.device("cpu"), 2)
    share = local_bytes(model) / whole
    loss, gradients = _gradients(model, _texts()[rank : rank + 1])
    torch.save({"share": share, "loss": loss, "gradients": gradients}, folder / str(rank))
    dist.destroy_process_group()


@pytest.mark.parametrize("saves_memory", [False, True])
def test_in_16_bits_as_a_whole_one(tmp_path: Path, saves_memory: bool) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    torch.multiprocessing.spawn(_process, (port, tmp_path, saves_memory), nprocs=2)
    found = [torch.load(tmp_path / str(rank)) for rank in range(2)]
    model = _loss_model(saves_memory=saves_memory)
    assert {one.dtype for one in model.parameters() if one.requires_grad} == {torch.float32}
    assert {one.dtype for one in model.parameters() if not one.requires_grad} == {torch.bfloat16}
    losses = [_gradients(model, _texts()[row : row + 1])[0] for row in range(2)]
    expected = {name: one.grad / 2 for name, one in model.named_parameters() if one.requires_grad}
    assert [one["loss"] for one in found] == pytest.approx(losses, rel=1e-6)
    for one in found:
        assert one["share"] <= 0.6
        assert one["gradients"].keys() == expected.keys()
        for name, gradient in one["gradients"].items():
            assert gradient.norm() > 0
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)
