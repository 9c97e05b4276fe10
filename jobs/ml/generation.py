"""Answers to prompts: many at a time, the most likely token each time, and no further than one mail."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from jobs.ml.batching import token_batches
from jobs.ml.encoding import Encoder

_NEXT_HEADER = re.compile(r"\n\nFrom: [^\n]*(\nDate: |$)|\n\nFrom: ?$")
"""Where the template begins another mail, or is about to."""


def generate(
    model: Any, encoder: Encoder, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, max_tokens: int = 16_384
) -> list[str]:
    """What the model writes after each prompt: the body of one mail, without what stands after its end.

    Greedy, so the same again for the same. At most max_tokens, padding and answers included, are in the
    model at once. A body ends with end-of-text, where the template's next header begins, or after max_new_tokens.
    """
    answers = [""] * len(prompts)
    lengths = [len(prompt) + max_new_tokens for prompt in prompts]
    for batch in token_batches(lengths, max_tokens):
        texts = _batch(model, encoder, [prompts[index] for index in batch], max_new_tokens)
        for index, text in zip(batch, texts, strict=True):
            answers[index] = text
    return answers


@torch.inference_mode()
def _batch(model: Any, encoder: Encoder, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
    """One batch, padded on the left: the next token then stands in one column."""
    from transformers import GenerationConfig, StoppingCriteriaList

    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), encoder.end_id, dtype=torch.long)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=encoder.end_id,
        pad_token_id=encoder.end_id,
        use_cache=True,
    )
    stop = StoppingCriteriaList([_MailEnded(encoder, width)])
    output = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=config,
        stopping_criteria=stop,
    )
    return [body_of(encoder.decode(_until_end(row, encoder.end_id))) for row in output[:, width:].tolist()]


class _MailEnded:
    """Tells which rows have begun another mail. See transformers' StoppingCriteria."""

    _TAIL = 24

    def __init__(self, encoder: Encoder, width: int) -> None:
        self._encoder = encoder
        self._width = width

    def __call__(self, input_ids: torch.Tensor, _scores: torch.Tensor, **_options: Any) -> torch.Tensor:
        tails = input_ids[:, max(self._width, input_ids.shape[1] - self._TAIL) :].tolist()
        ended = [_NEXT_HEADER.search(self._encoder.decode(tail)) is not None for tail in tails]
        return torch.tensor(ended, device=input_ids.device)


def body_of(text: str) -> str:
    """A generated text up to where the template would begin the next mail, white space around it left out."""
    match = _NEXT_HEADER.search(text)
    return (text[: match.start()] if match else text).strip()


def _until_end(ids: list[int], end_id: int) -> list[int]:
    return ids[: ids.index(end_id)] if end_id in ids else ids
