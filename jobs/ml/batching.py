"""Examples as batches: few, full and padded little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from jobs.ml.encoding import IGNORED, Example


def token_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices in batches of at most max_tokens, padding counted; longest first; one that is longer stands alone.

    A pure function of its arguments: equal lengths keep their order.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    for index in order:
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def collate(examples: Sequence[Example], pad_id: int = 0) -> dict[str, Any]:
    """Tensors [number of examples, longest]: input_ids and labels, padded on the right.

    Under causal attention no token sees what is on its right, so padding needs no mask: its labels are IGNORED.
    """
    width = max(map(len, examples))
    input_ids = np.full((len(examples), width), pad_id, np.int64)
    labels = np.full((len(examples), width), IGNORED, np.int64)
    for row, example in enumerate(examples):
        input_ids[row, : len(example)] = example.input_ids
        labels[row, : len(example)] = example.labels
    return {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}
