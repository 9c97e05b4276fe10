"""Answers to prompts: many at a time, the most likely token each time, and no further than one mail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from jobs.mail.template import NEXT_MAIL
from jobs.ml.base_model import require_length
from jobs.ml.batching import token_batches
from jobs.ml.encoding import Encoder
from jobs.ml.model_state import causal_model, evaluating, replaced
from jobs.ml.quiet import quiet_libraries

_TAIL_TOKENS = len(NEXT_MAIL.encode()) + 1
"""So many tokens hold it whole, whatever the tokenizer: a token is a byte at least."""


def generate(
    model: Any, encoder: Encoder, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, max_tokens: int = 16_384
) -> list[str]:
    """What the model writes after each prompt: the body of one mail, without what stands behind its end.

    Greedy, so the same again for the same, whatever stands in the batch beside it. At most max_tokens, padding
    and answers included, are in the model at once, or one prompt that is longer. A body ends with end-of-text,
    where the template's next header begins, or after max_new_tokens. ConfigError for a prompt that leaves
    no room for max_new_tokens in what the model can read.
    """
    answers = [""] * len(prompts)
    lengths = [len(prompt) + max_new_tokens for prompt in prompts]
    require_length(model, max(lengths, default=0))
    with evaluating(model), torch.no_grad(), quiet_libraries():
        for batch in token_batches(lengths, max_tokens):
            texts = _batch(causal_model(model), encoder, [prompts[index] for index in batch], max_new_tokens)
            for index, text in zip(batch, texts, strict=True):
                answers[index] = text
    return answers


def _batch(model: Any, encoder: Encoder, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
    """One batch, padded on the left: the next token then stands in one column for all."""
    from transformers import GenerationConfig

    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), encoder.end_id, dtype=torch.long)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    # What a model's own generation_config.json asks for (sampling, penalties) would be filled in: it is set aside.
    with replaced(model, "generation_config", GenerationConfig()):
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=encoder.stop_ids,
            pad_token_id=encoder.end_id,
            stopping_criteria=[_MailEnded(encoder, width)],
        )
    return [body_of(encoder.decode(_until_stop(row, encoder.stop_ids))) for row in output[:, width:].tolist()]


class _MailEnded:
    """Says which rows have begun another mail. See transformers' StoppingCriteria."""

    def __init__(self, encoder: Encoder, width: int) -> None:
        self._encoder = encoder
        self._width = width

    def __call__(self, input_ids: torch.Tensor, _scores: torch.Tensor, **_options: Any) -> torch.Tensor:
        start = max(self._width, input_ids.shape[1] - _TAIL_TOKENS)
        ended = [NEXT_MAIL in self._encoder.decode(tail) for tail in input_ids[:, start:].tolist()]
        return torch.tensor(ended, device=input_ids.device)


def body_of(text: str) -> str:
    """A generated text up to where the template begins the next mail, white space around it left out."""
    return text.partition(NEXT_MAIL)[0].strip()


def _until_stop(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    return ids[: next((number for number, token in enumerate(ids) if token in stop_ids), len(ids))]
