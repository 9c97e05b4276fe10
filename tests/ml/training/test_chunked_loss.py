from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from ml.training.small_models import VOCABULARY, batch, distance, model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, LlamaConfig

from jobs.ml.adapters import add_adapter
from jobs.ml.encoding import IGNORED
from jobs.ml.training import chunked_loss
from jobs.ml.training.chunked_loss import target_cross_entropy
from jobs.ml.training.loss_model import LossModel


def states(dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.nn.Linear]:
    """Hidden states, labels of which a third is no target, and a frozen output head."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(3, 17, 24, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(VOCABULARY, (3, 17), generator=generator)
    labels[torch.rand(3, 17, generator=generator) < 1 / 3] = IGNORED
    head = torch.nn.Linear(24, VOCABULARY, bias=False, dtype=dtype).requires_grad_(requires_grad=False)
    head.weight.copy_(torch.randn(VOCABULARY, 24, generator=generator))
    return hidden, labels, head


def plain(hidden: torch.Tensor, labels: torch.Tensor, head: torch.nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradient as torch has them, of all logits at once."""
    loss = torch.nn.functional.cross_entropy(
        head(hidden).float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return loss.detach(), torch.autograd.grad(loss, hidden)[0]


def chunked(hidden: torch.Tensor, labels: torch.Tensor, head: torch.nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    loss = target_cross_entropy(hidden, labels, head, VOCABULARY)
    return loss.detach(), torch.autograd.grad(loss, hidden)[0]


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_loss_and_gradient_are_the_plain_ones_whatever_the_block(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_loss, "_BLOCK_LOGITS", rows * VOCABULARY)
    hidden, labels, head = states()
    expected_loss, expected = plain(hidden, labels, head)
    loss, gradient = chunked(hidden, labels, head)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)
    assert gradient[labels == IGNORED].eq(0).all()
    assert gradient[labels != IGNORED].ne(0).any(-1).all()


def test_bf16_is_no_further_from_fp64_than_the_plain_loss() -> None:
    hidden, labels, head = states(torch.bfloat16)
    exact_loss, exact = plain(hidden.detach().double().requires_grad_(), labels, copy.deepcopy(head).double())
    loss, gradient = chunked(hidden, labels, head)
    plain_loss, plain_gradient = plain(hidden, labels, head)
    assert gradient.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert abs(loss - exact_loss) <= abs(plain_loss - exact_loss) + 1e-5 * exact_loss
    assert distance(gradient, exact) <= 1.01 * distance(plain_gradient, exact) < 0.01


def test_gradient_is_scaled_by_what_follows() -> None:
    hidden, labels, head = states()
    loss = target_cross_entropy(hidden, labels, head, VOCABULARY)
    expected = torch.autograd.grad(loss, hidden, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(loss * 0.25, hidden)[0], expected * 0.25)


def test_nothing_to_foretell_is_a_loss_of_zero_with_a_gradient() -> None:
    hidden, labels, head = states()
    loss, gradient = chunked(hidden, torch.full_like(labels, IGNORED), head)
    assert loss == 0
    assert gradient.eq(0).all()


def test_without_a_gradient_none_is_made() -> None:
    hidden, labels, head = states()
    expected, _ = plain(hidden, labels, head)
    with torch.no_grad():
        loss = target_cross_entropy(hidden.detach(), labels, head, VOCABULARY)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert not loss.requires_grad


class Largest(TorchDispatchMode):
    """Notes the most elements that any tensor had that was made meanwhile."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else [result]:
            if isinstance(one, torch.Tensor):
                self.elements = max(self.elements, one.numel())
        return result


def test_memory_is_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_loss, "_BLOCK_LOGITS", 8 * 1000)
    head = torch.nn.Linear(4, 1000, bias=False).requires_grad_(requires_grad=False)
    largest = []
    for num_tokens in (16, 1600):
        hidden = torch.randn(1, num_tokens, 4, requires_grad=True)
        with Largest() as mode:
            loss = target_cross_entropy(hidden, torch.randint(1000, (1, num_tokens)), head, 1000)
            loss.backward()
        largest.append(mode.elements)
    assert largest == [8000, 8000]


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (LlamaConfig, {}),
        (Gemma2Config, {"final_logit_softcapping": 2.0, "attn_implementation": "eager"}),
        (CohereConfig, {"logit_scale": 0.25}),
    ],
)
def test_a_model_s_own_logits_and_loss(config: Any, settings: dict[str, Any]) -> None:
    """Against transformers' own loss, with a mask, of each row alone: also where logits are capped or scaled."""
    wanted = model(config)
    for name, value in settings.items():
        setattr(wanted, name, value)
    torch.manual_seed(0)
    causal = AutoModelForCausalLM.from_config(wanted).requires_grad_(requires_grad=False)
    whole = LossModel(add_adapter(causal, rank=4, alpha=8, dropout=0.0, seed=0)).train()
    for name, parameter in whole.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    tensors = batch()
    weights = [one for one in whole.parameters() if one.requires_grad]
    loss = whole(**tensors)
    gradients = torch.autograd.grad(loss, weights)
    total = torch.zeros(())
    for input_ids, labels in zip(tensors["input_ids"], tensors["labels"], strict=True):
        length = int((labels != IGNORED).nonzero().max()) + 1
        mean = causal(input_ids=input_ids[None, :length], labels=labels[None, :length]).loss
        total = total + mean * (labels[1:length] != IGNORED).sum()
    torch.testing.assert_close(loss, total, rtol=1e-5, atol=0)
    for found, expected in zip(gradients, torch.autograd.grad(total, weights), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_an_adapter_on_the_output_head_is_trained_too() -> None:
    torch.manual_seed(0)
    wanted = model(LlamaConfig)
    wanted.tie_word_embeddings = False
    causal = AutoModelForCausalLM.from_config(wanted).requires_grad_(requires_grad=False)
    whole = LossModel(add_adapter(causal, rank=4, alpha=8, dropout=0.0, target_modules="lm_head", seed=0)).train()
    whole(**batch()).backward()
    (up,) = (one for name, one in whole.named_parameters() if "lora_B" in name)
    assert up.grad is not None
    assert up.grad.ne(0).any()
