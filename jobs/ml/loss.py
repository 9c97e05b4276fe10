"""The loss of each target token, in memory that does not grow with the set or the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from jobs.ml.batching import collate, token_batches
from jobs.ml.encoding import IGNORED, Example

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK_LOGITS = 1 << 26
"""Logits that are held at a time."""


def target_losses(model: Any, examples: Sequence[Example], *, max_tokens: int) -> list[NDArray[np.float64]]:
    """The losses (nats) of each example's target tokens, in their order.

    The first token of a text has nothing before it and no loss; it is never a target. At most
    max_tokens, padding included, go through the model at once.
    """
    losses: list[NDArray[np.float64]] = [np.empty(0)] * len(examples)
    for batch in token_batches([len(example) for example in examples], max_tokens):
        chosen = [examples[index] for index in batch]
        values = _batch_losses(model, chosen)
        ends = np.cumsum([example.num_targets for example in chosen])
        for index, part in zip(batch, np.split(values, ends[:-1]), strict=True):
            losses[index] = part
    return losses


@torch.inference_mode()
def _batch_losses(model: Any, examples: Sequence[Example]) -> NDArray[np.float64]:
    """The losses of all targets of a batch, row by row."""
    tensors = collate(examples)
    labels = tensors["labels"][:, 1:].to(model.device)
    is_target = labels != IGNORED
    hidden = model.get_decoder()(input_ids=tensors["input_ids"].to(model.device), use_cache=False)[0]
    hidden = hidden[:, :-1][is_target]
    head = model.get_output_embeddings()
    block = max(1, _BLOCK_LOGITS // head.weight.shape[0])
    parts = [
        torch.nn.functional.cross_entropy(head(states).float(), targets, reduction="none")
        for states, targets in zip(hidden.split(block), labels[is_target].split(block), strict=True)
    ]
    values: NDArray[np.float64] = torch.cat(parts).double().cpu().numpy() if parts else np.empty(0)
    return values
