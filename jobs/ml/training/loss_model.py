"""The model as the trainer sees it: tokens in, the sum of the targets' losses out."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from jobs.ml.encoding import IGNORED
from jobs.ml.loss import logits_of
from jobs.ml.training.chunked_loss import target_cross_entropy


class LossModel(nn.Module):
    """A PeftModel behind a forward pass that gives the summed loss alone: no logits of what is no target.

    Memory grows neither with the vocabulary nor with the batch, but where the output head itself is trained.
    """

    def __init__(self, peft_model: Any) -> None:
        super().__init__()
        self.peft_model = peft_model
        self._head_is_all = _head_is_all(self.causal_model)

    @property
    def causal_model(self) -> Any:
        """The language model with the adapter in it."""
        return self.peft_model.get_base_model()

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum of the losses (nats) of the targets: input_ids and labels [batch, length], padded on the right.

        No mask: under causal attention no token sees the padding on its right, and without a mask the
        fastest kernels of attention are taken.
        """
        # Nothing is foretold from the last token: it is not read.
        hidden = self.causal_model.get_decoder()(input_ids=input_ids[:, :-1], use_cache=False)[0]
        targets = labels[:, 1:]
        head = self.causal_model.get_output_embeddings()
        if any(parameter.requires_grad for parameter in head.parameters()):
            is_target = targets != IGNORED
            logits = self._logits(hidden[is_target])
            return nn.functional.cross_entropy(logits.float(), targets[is_target], reduction="sum")
        return target_cross_entropy(hidden, targets, self._logits, head.weight.shape[0])

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        model = self.causal_model
        logits: torch.Tensor
        logits = model.get_output_embeddings()(hidden) if self._head_is_all else logits_of(model, hidden)
        return logits


def _head_is_all(model: Any) -> bool:
    """Whether a model makes its logits with the output head alone; some scale or cap them. Found by trying it."""
    head = model.get_output_embeddings()
    generator = torch.Generator().manual_seed(0)
    width = head.weight.shape[1]
    states = torch.randn(2, width, generator=generator).to(head.weight.device, head.weight.dtype)
    with torch.no_grad():
        return bool(torch.equal(head(states), logits_of(model, states)))
