"""Texts that grow token by token, many at a time over one model, each with its own adapter."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from jobs.contracts.errors import IntegrityError
from jobs.ml.adapter_set import BARE, Adapter, AdapterSet
from jobs.ml.base_model import Base, load_encoder, num_positions
from jobs.ml.spreading import load_to_ask, spread_note

_TOKENS_AT_ONCE = 512
"""Of a prompt in one step, so that a long one does not hold up the others for long."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen: the most likely one at temperature 0, else by chance."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(slots=True)
class Growing:
    """A text that grows: what the model has not read of it yet, and what it keeps of the rest."""

    unread: list[int]
    adapter: Adapter
    sampling: Sampling
    random: torch.Generator
    kept: Any = field(default=None)
    """Keys and values."""


class Decoder:
    """A loaded base model and its tokenizer. One thread at a time may call `step`; the rest is safe beside it."""

    is_elsewhere = False
    """Whether another process computes, and a step only looks whether a token has come."""

    def __init__(self, base: Base, *, device: str | None = None, precision: str = "bf16") -> None:
        self.base = base
        self.encoder = load_encoder(base)
        self._model: Any = load_to_ask(base, device=device, precision=precision)
        self.note = spread_note(self._model)
        """What a user should know of where the model is; None where that goes without saying."""
        self._adapters = AdapterSet(self._model, base)
        self.num_positions = num_positions(self._model)
        """How many tokens it reads at most; None where it does not say."""
        keeps = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        self._options: dict[str, Any] = {"use_cache": True, "return_dict": True} | (
            {"logits_to_keep": 1} if keeps else {}
        )

    def load(self, folder: Path | None) -> Adapter:
        """An adapter, ready to work, or that of the bare base model. See `AdapterSet.load`."""
        return BARE if folder is None else self._adapters.load(folder)

    def begin(self, prompt: Sequence[int], adapter: Adapter, sampling: Sampling) -> Growing:
        """A text that goes on from a prompt."""
        random = torch.Generator()
        if sampling.seed is None:
            random.seed()
        else:
            random.manual_seed(sampling.seed)
        return Growing(list(prompt), adapter, sampling, random)

    def step(self, growing: Growing) -> int | None:
        """The next token; None while the model still reads. IntegrityError where it computes no numbers."""
        piece, growing.unread = growing.unread[:_TOKENS_AT_ONCE], growing.unread[_TOKENS_AT_ONCE:]
        self._adapters.use(growing.adapter)
        ids = torch.tensor([piece], device=self._model.device)
        with torch.inference_mode():
            output = self._model(input_ids=ids, past_key_values=growing.kept, **self._options)
        growing.kept = output.past_key_values
        if growing.unread:
            return None
        token = _chosen(output.logits[0, -1].float().cpu(), growing)
        growing.unread = [token]
        return token


def _chosen(logits: torch.Tensor, growing: Growing) -> int:
    """The next token; of equal ones the first, at temperature 0. Any temperature and top_p above 0 will do.

    Double precision, and logits of which the largest is 0: neither overflows, however little is divided by.
    """
    if not bool(torch.isfinite(logits.max())):
        raise IntegrityError("the model computes no numbers", hint="its weights or the adapter's are damaged")
    sampling = growing.sampling
    if sampling.temperature <= 0:
        return int(logits.argmax())
    scaled = (logits.double() - logits.max()) / sampling.temperature
    likely, tokens = torch.softmax(scaled, dim=-1).sort(descending=True, stable=True)
    before = likely.cumsum(-1) - likely
    likely = torch.where(before < sampling.top_p, likely, 0.0)
    return int(tokens[torch.multinomial(likely, 1, generator=growing.random)])
