"""The loss of each target token, in memory that grows neither with the set nor with the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from jobs.ml.base_model import require_length
from jobs.ml.batching import collate, token_batches
from jobs.ml.encoding import IGNORED, Example
from jobs.ml.model_state import causal_model, evaluating, replaced

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK_LOGITS = 1 << 25
"""Logits that are held at a time: 128 MiB in fp32, and as much again for their softmax."""


def target_losses(model: Any, examples: Sequence[Example], *, max_tokens: int) -> list[NDArray[np.float64]]:
    """The losses (nats) of each example's target tokens, in their order.

    The perplexity of a set is exp(sum of all losses / number of all targets). The first token of a text has
    nothing before it and no loss; it is never a target. At most max_tokens, padding included, go through the
    model at once, or one text that is longer. ConfigError for one that is longer than the model reads.
    """
    losses: list[NDArray[np.float64]] = [np.empty(0)] * len(examples)
    scored = [number for number, example in enumerate(examples) if example.num_targets]
    require_length(model, max((len(examples[number]) - 1 for number in scored), default=0))
    with evaluating(model), torch.no_grad():
        for batch in token_batches([len(examples[number]) for number in scored], max_tokens):
            chosen = [examples[scored[index]] for index in batch]
            ends = np.cumsum([example.num_targets for example in chosen])
            parts = np.split(_batch_losses(model, chosen), ends[:-1])
            for index, part in zip(batch, parts, strict=True):
                losses[scored[index]] = part
    return losses


def _batch_losses(model: Any, examples: Sequence[Example]) -> NDArray[np.float64]:
    """The losses of all targets of a batch, row by row."""
    tensors = collate(examples)
    # Nothing is foretold from the last token: it is not read.
    hidden = causal_model(model).get_decoder()(
        input_ids=tensors["input_ids"][:, :-1].to(model.device), use_cache=False
    )[0]
    labels = tensors["labels"][:, 1:].to(hidden.device)  # of a model over several GPUs the last one's
    is_target = labels != IGNORED
    parts = [
        torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
        for logits, targets in _blocks(model, hidden[is_target], labels[is_target])
    ]
    values: NDArray[np.float64] = torch.cat(parts).double().cpu().numpy()
    return values


def _blocks(model: Any, hidden: torch.Tensor, targets: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    num_rows = block_rows(model)
    for states, labels in zip(hidden.split(num_rows), targets.split(num_rows), strict=True):
        yield logits_of(model, states), labels


def block_rows(model: Any) -> int:
    """How many tokens' logits may be held at a time."""
    vocabulary: int = causal_model(model).get_output_embeddings().weight.shape[0]
    return max(1, _BLOCK_LOGITS // vocabulary)


def logits_of(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Logits [tokens, vocabulary] from last hidden states [tokens, width], as the model itself makes them.

    Some models do more than multiply by the output head: they scale, or cap (Gemma, Cohere, Granite). So the
    model's own forward is run, with the states in place of what its decoder would give.
    """
    from transformers.modeling_outputs import MoeModelOutputWithPast

    whole = causal_model(model)
    given = MoeModelOutputWithPast(last_hidden_state=hidden[None])
    with replaced(whole.get_decoder(), "forward", lambda *_args, **_kwargs: given):
        logits: torch.Tensor = whole(input_ids=_NOTHING.to(hidden.device), use_cache=False).logits[0]
    return logits


_NOTHING = torch.zeros((1, 1), dtype=torch.long)
