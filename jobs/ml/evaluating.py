"""Losses and answers of many adapters over one loaded base model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jobs.contracts.records import Chunk, ChunkMessage
from jobs.mail.template import render
from jobs.ml.adapter_switch import AdapterSwitch
from jobs.ml.base_model import Base, num_positions
from jobs.ml.batching import token_batches
from jobs.ml.devices import make_deterministic
from jobs.ml.encoding import Encoder, Example
from jobs.ml.generation import generate
from jobs.ml.loss import target_losses
from jobs.ml.spreading import load_to_ask, spread_note

MAX_ANSWERED_TOKENS = 1024
"""Of a longer mail that is answered, the model reads the beginning."""
_MAX_HEADER_CHARS = 300
_SHORTER = ((80, 1), (20, 1), (20, 4), (0, 10**9))
"""For a model with little room: so many characters of each header, and so small a part of the mail."""

Mail = tuple[str, str, str]
"""Sender, date and body."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is to go on from."""

    ids: list[int]
    num_sources: int
    """So many of the sources, the best ones, had room."""


class Scorer:
    """One loaded base model, with one adapter at a time merged into it.

    `tell` hears of how many more tokens have gone through the model. Results do not depend on `batch_tokens`,
    but for rounding.
    """

    def __init__(
        self,
        base: Base,
        encoder: Encoder,
        *,
        precision: str,
        device: str | None,
        batch_tokens: int,
        seed: int,
        tell: Callable[[int], object] = lambda _: None,
    ) -> None:
        make_deterministic(seed)
        self.encoder = encoder
        self._model: Any = load_to_ask(base, device=device, precision=precision)
        self.note = spread_note(self._model)
        """What a user should know of where the model is; None where that goes without saying."""
        self._switch = AdapterSwitch(self._model, base)
        self._batch_tokens = batch_tokens
        self._tell = tell
        self.num_tokens = 0
        """How many have gone through the model; of answers, as many as they could have had."""

    def use(self, folder: Path | None) -> None:
        """Merge an adapter into the base in place of the one before; None: the bare base. See `AdapterSwitch.use`."""
        self._switch.use(folder)

    def losses(self, examples: Sequence[Example]) -> list[float]:
        """The sum of the losses (nats) of each example's targets."""
        sums = [0.0] * len(examples)
        for batch in token_batches([len(example) for example in examples], self._batch_tokens):
            chosen = [examples[index] for index in batch]
            found = target_losses(self._model, chosen, max_tokens=self._batch_tokens)
            for index, losses in zip(batch, found, strict=True):
                sums[index] = float(losses.sum())
            self._count(sum(map(len, chosen)))
        return sums

    def prompt(
        self, subject: str, sources: Sequence[Mail], answered: Mail, sender: str, date: str, *, max_new_tokens: int
    ) -> Prompt:
        """As many of the sources (best first) as the model can read stand as earlier mails, then what is answered.

        Where not even that has room, headers are cut, and then more of the mail: what is left at last is as long
        for every mail, and a model that cannot read it is refused by `generate`.
        """
        limit = num_positions(self._model)
        room = None if limit is None else limit - max_new_tokens
        most = MAX_ANSWERED_TOKENS if room is None else max(1, min(MAX_ANSWERED_TOKENS, room // 2))
        body = cache(lambda num_tokens: beginning(self.encoder, answered[2], max(1, num_tokens)))
        tries = [(num, _MAX_HEADER_CHARS, most) for num in range(len(sources), -1, -1)]
        for num, chars, num_tokens in [*tries, *((0, chars, most // part) for chars, part in _SHORTER)]:
            earlier = sorted(sources[:num], key=lambda one: one[1])
            asked = (answered[0][:chars], answered[1], body(num_tokens))
            ids = self.encoder.prompt(subject[:chars], [*earlier, asked], sender[:chars], date)
            if room is None or len(ids) <= room:
                break
        return Prompt(ids, num)

    def answers(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
        """What the model writes after each prompt; see `generate`."""
        answers = [""] * len(prompts)
        lengths = [len(prompt) + max_new_tokens for prompt in prompts]
        for batch in token_batches(lengths, self._batch_tokens):
            chosen = [prompts[index] for index in batch]
            options = {"max_new_tokens": max_new_tokens, "max_tokens": self._batch_tokens}
            for index, text in zip(batch, generate(self._model, self.encoder, chosen, **options), strict=True):
                answers[index] = text
            self._count(sum(lengths[index] for index in batch))
        return answers

    def _count(self, num_tokens: int) -> None:
        self.num_tokens += num_tokens
        self._tell(num_tokens)

    def log_probabilities(self, mails: Sequence[tuple[str, Mail]]) -> list[tuple[float, int]]:
        """Of each body, its log-probability (nats) and its tokens; a mail is (subject, (sender, date, body)).

        Before it the model reads its header alone. Of a body that is longer than it can read, such as a
        pasted log of many pages, the beginning counts.
        """
        examples = [self._readable(subject, mail) for subject, mail in mails]
        return [(-loss, one.num_targets) for loss, one in zip(self.losses(examples), examples, strict=True)]

    def _readable(self, subject: str, mail: Mail) -> Example:
        """A mail as far as the model can read."""
        example, limit = self.encoder.example(_as_chunk(subject, mail)), num_positions(self._model)
        if limit is None or len(example) <= limit:
            return example
        most = max(1, limit - (len(example) - example.num_targets))
        return self.encoder.example(_as_chunk(subject, (*mail[:2], beginning(self.encoder, mail[2], most))))


def beginning(encoder: Encoder, text: str, max_tokens: int) -> str:
    """As much of a text's beginning as has no more tokens than that; whole lines where it has some."""
    text = text[: 64 * max_tokens]  # nobody's tokens are longer on average, and a mail may have megabytes
    (num,) = encoder.count([text])
    while num > max_tokens:
        text = text[: min(len(text) - 1, len(text) * max_tokens // num)]
        text = text.rpartition("\n")[0] or text
        (num,) = encoder.count([text])
    return text


def _as_chunk(subject: str, mail: Mail) -> Chunk:
    text, ((start, end),) = render(subject[:_MAX_HEADER_CHARS], [(mail[0][:_MAX_HEADER_CHARS], *mail[1:])])
    message = ChunkMessage("", mail[0], mail[1], start, end, 0)
    return Chunk("", "", "val", 0, mail[0], subject, mail[1], 0, 0, [message], text)
