"""The summed loss of target tokens and its gradient, both made block by block in one pass.

The logits of 16,384 tokens over a vocabulary of 128,256 would be 8 GiB in fp32, and as much again for
their gradient. Here some hundred tokens' are held at a time, and each block's gradient is made while its
logits are there: the output head is multiplied by twice, not three times as where a block is forgotten and
made again in the backward pass (as torch.utils.checkpoint does).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from jobs.ml.encoding import IGNORED

_BLOCK_LOGITS = 1 << 26
"""Logits that are held at a time: 256 MiB in fp32, and some times that for softmax and gradient."""


def target_cross_entropy(
    hidden: torch.Tensor, labels: torch.Tensor, logits_of: Callable[[torch.Tensor], torch.Tensor], vocabulary: int
) -> torch.Tensor:
    """Sum of the losses (nats, fp32) of all targets; 0, with a gradient of zeros, where there is none.

    `hidden` [..., width] are last hidden states and `labels` [...] what each is to foretell, IGNORED where
    nothing. `logits_of` makes logits [n, vocabulary] of states [n, width], each row by itself; the weights
    that it uses must be frozen, for the gradient goes to `hidden` alone.
    """
    num_rows = max(1, _BLOCK_LOGITS // vocabulary)
    total: torch.Tensor = _TargetCrossEntropy.apply(hidden, labels, logits_of, num_rows)
    return total


class _TargetCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, labels: torch.Tensor, logits_of: Any, num_rows: int) -> torch.Tensor:
        states, targets = hidden.flatten(0, -2), labels.flatten()
        is_trained = ctx.needs_input_grad[0]
        gradient = torch.zeros_like(states) if is_trained else states.new_empty(0)
        total = states.new_zeros((), dtype=torch.float32)
        for rows in (targets != IGNORED).nonzero().squeeze(1).split(num_rows):
            block = states[rows].requires_grad_(is_trained)
            with torch.set_grad_enabled(is_trained):
                loss = torch.nn.functional.cross_entropy(logits_of(block).float(), targets[rows], reduction="sum")
            total += loss.detach()
            if is_trained:
                gradient[rows] = torch.autograd.grad(loss, block)[0]
        ctx.save_for_backward(gradient.view_as(hidden) if is_trained else gradient)
        return total

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_output.to(gradient.dtype), None, None, None
