"""What is trained on: a base model with random weights, and texts as long as mails are."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LONGEST = 2048
TARGET_SHARE = 0.7
"""How much of a text is bodies that are learnt; the rest is headers and earlier mails."""
CHUNKS = "chunks.npz"


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama's sizes, and how much of the work goes through it at once."""

    width: int
    inner: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    batch_tokens: int
    """Of a step."""
    their_batch: int
    """Texts that go through the model at once where others pad a batch; a step has 16.

    Stock PEFT keeps 14 MB a token of an 8B model for the backward pass (ours 6): more would not fit.
    """
    rank: int
    """Of the adapter."""

    @property
    def num_weights(self) -> int:
        """Weights that each token is multiplied by: all but the embeddings."""
        per_head = self.width // self.heads
        attention = 2 * self.width**2 + 2 * self.width * self.key_value_heads * per_head
        return self.layers * (attention + 3 * self.width * self.inner) + self.vocabulary * self.width


SHAPES = {
    # In about the proportions of the other: inner width, the output head's and the adapter's share.
    "small": Shape(192, 672, 4, 6, 2, 768, batch_tokens=4_096, their_batch=16, rank=2),
    "8b": Shape(4096, 14_336, 32, 32, 8, 128_256, batch_tokens=16_384, their_batch=2, rank=16),
}
"""`8b` is Llama 3.1's."""


def num_operations(shape: Shape, lengths: np.ndarray[Any, Any]) -> float:
    """Floating-point operations that training on these texts once must do.

    Four a weight and token: forward, and the gradient of what went in; frozen weights have none. Attention
    sees half of a square: 2 · width · length² forward and twice that backward, each layer.
    """
    tokens, squares = float(lengths.sum()), float((lengths.astype(np.float64) ** 2).sum())
    return 4 * shape.num_weights * tokens + 6 * shape.width * shape.layers * squares


def prepare(folder: Path, num_chunks: int, shape: Shape) -> None:
    """The base model in `base/`, the texts, and the schedule that `refrain sample` makes of them."""
    from jobs.stages import Inputs, Outputs
    from jobs.stages.sample import Config, run

    make_base(folder / "base", shape)
    rng = random.Random(0)
    lengths = [min(LONGEST, max(12, int(rng.lognormvariate(5.2, 0.9)))) for _ in range(num_chunks)]
    ids = np.random.default_rng(0).integers(2, shape.vocabulary, sum(lengths), np.int32)
    np.savez(folder / CHUNKS, lengths=lengths, ids=ids)
    entries = [_entry(number, length) for number, length in enumerate(lengths)]
    (folder / "new_train.json").write_text(json.dumps(entries))
    (folder / "manifest.json").write_text("[]")
    inputs = Inputs({"new_train": [folder / "new_train.json"], "manifest": [folder / "manifest.json"]})
    outputs = Outputs({"schedule": folder / "epoch_schedule.json", "report": folder / "report.txt"})
    run(Config(epochs=1, batch_tokens=shape.batch_tokens), inputs, outputs)


def texts(folder: Path) -> dict[str, list[int]]:
    """The texts by their ids."""
    with np.load(folder / CHUNKS) as stored:
        lengths, ids = stored["lengths"], stored["ids"]
    parts = np.split(ids, np.cumsum(lengths)[:-1])
    return {_entry(number, 0)["chunk_id"]: part.tolist() for number, part in enumerate(parts)}


def labels_of(ids: list[int]) -> list[int]:
    """The last part of a text is what is learnt."""
    first = round(len(ids) * (1 - TARGET_SHARE))
    return [-100] * first + ids[first:]


def _entry(number: int, length: int) -> dict[str, Any]:
    thread = f"thread_{number:024x}"
    return {
        "chunk_id": f"{thread}_window_0",
        "thread_id": thread,
        "split": "train",
        "window_idx": 1,
        "sender": f"person{number % 50}@example.org",
        "num_tokens": length,
        "length_bucket": sum(length > edge for edge in (256, 512, 1024)),
    }


def make_base(folder: Path, shape: Shape) -> None:
    """A Llama of that shape with random weights, and some tokenizer."""
    import torch
    from ml.tiny import tiny_base
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny_base(folder, ["no text is read"], width=16)  # for its tokenizer
    is_large = shape.num_weights > 10**9
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=False,
        dtype=torch.bfloat16 if is_large else torch.float32,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if is_large else "cpu"):
        model = LlamaForCausalLM(config)
    model.to(config.dtype).save_pretrained(folder)
