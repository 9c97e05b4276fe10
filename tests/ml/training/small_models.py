"""Models and batches that are small enough for a test of one step."""

from __future__ import annotations

from typing import Any

import torch

from jobs.ml.encoding import IGNORED

VOCABULARY = 97


def model(config: Any) -> Any:
    """A configuration of that class: two layers of width 32."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return config(vocab_size=VOCABULARY, num_key_value_heads=2, head_dim=8, pad_token_id=0, **sizes)


def batch(lengths: tuple[int, ...] = (19, 7, 12)) -> dict[str, torch.Tensor]:
    """Padded on the right, with labels on some tokens of each row alone."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(1, VOCABULARY, (len(lengths), max(lengths)), generator=generator)
    labels = torch.full_like(input_ids, IGNORED)
    for row, length in enumerate(lengths):
        labels[row, 3:length] = input_ids[row, 3:length]
        input_ids[row, length:] = 0
    return {"input_ids": input_ids, "labels": labels}


def distance(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative, of all elements together."""
    return float((found.double() - exact.double()).norm() / exact.double().norm())
