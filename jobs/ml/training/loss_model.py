"""The model as the trainer sees it: tokens in, the sum of the targets' losses out."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from jobs.ml.encoding import IGNORED

_BLOCK_LOGITS = 1 << 26
"""Logits that are held at a time, 256 MiB in fp32."""


class LossModel(nn.Module):
    """A PeftModel behind a forward pass that gives the summed loss alone: no logits of what is no target.

    Logits are made block by block, and again in the backward pass: memory grows neither with the
    vocabulary nor with the batch.
    """

    def __init__(self, peft_model: Any) -> None:
        super().__init__()
        self.peft_model = peft_model

    @property
    def causal_model(self) -> Any:
        """The language model with the adapter in it."""
        return self.peft_model.get_base_model()

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum of the losses (nats) of the targets: input_ids and labels [batch, length], padded on the right."""
        model = self.causal_model
        hidden = model.get_decoder()(input_ids=input_ids, use_cache=False)[0][:, :-1]
        targets = labels[:, 1:]
        is_target = targets != IGNORED
        hidden, targets = hidden[is_target], targets[is_target]
        head = model.get_output_embeddings()
        if not len(targets):
            return head(hidden).float().sum()  # nothing, but with a gradient (of zeros) for every weight
        block = max(1, _BLOCK_LOGITS // head.weight.shape[0])
        total = hidden.new_zeros((), dtype=torch.float32)
        for states, labels_of in zip(hidden.split(block), targets.split(block), strict=True):
            total = total + checkpoint(_summed_loss, head, states, labels_of, use_reentrant=False)
        return total


def _summed_loss(head: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(head(hidden).float(), targets, reduction="sum")
