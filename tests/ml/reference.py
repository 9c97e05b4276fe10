"""Perplexity of a base model on mail, by transformers alone: what ours is compared with.

Starts from raw mails and imports nothing of the project. One text at a time, all logits, float64.
"""

from __future__ import annotations

import email
import email.utils
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC
from email.message import Message
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def perplexity(folder: Path, raw_mails: Sequence[str], *, window: int, overlap: int) -> tuple[float, int]:
    """Perplexity of the bodies, each scored once, and their number of tokens.

    Threads are cut into texts of `window` mails, whose first `overlap` are the last of the text before.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    total, count = 0.0, 0
    for mails in _threads(raw_mails):
        for context, targets in _windows(mails, window, overlap):
            loss, num_tokens = _loss(model, tokenizer, mails[0]["Subject"], context, targets)
            total += loss
            count += num_tokens
    return math.exp(total / count), count


def _threads(raw_mails: Sequence[str]) -> list[list[Message]]:
    threads = defaultdict(list)
    for mail in map(email.message_from_string, raw_mails):
        root = (mail["References"] or mail["Message-ID"]).split()[0]
        threads[root].append(mail)
    return [sorted(mails, key=_time) for mails in threads.values()]


def _time(mail: Message) -> float:
    return email.utils.parsedate_to_datetime(mail["Date"]).timestamp()


def _windows(mails: list[Message], window: int, overlap: int) -> Iterator[tuple[list[Message], list[Message]]]:
    done = 0
    while done < len(mails):
        context = mails[max(0, done - overlap) : done]
        end = done + window - len(context)
        yield context, mails[done:end]
        done = end


def _loss(model, tokenizer, subject, context, targets) -> tuple[float, int]:
    pieces = [(f"Subject: {subject}\n\n", False)]
    for mail in [*context, *targets]:
        when = email.utils.parsedate_to_datetime(mail["Date"]).astimezone(UTC)
        sender = email.utils.parseaddr(mail["From"])[1]
        pieces.append((f"From: {sender}\nDate: {when:%Y-%m-%d %H:%M}\n\n", False))
        pieces.append((mail.get_payload().strip("\n"), mail in targets))
        pieces.append(("\n\n", False))
    ids, scored = [], []
    if tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]:
        ids, scored = [tokenizer.bos_token_id], [False]
    for text, is_scored in pieces:
        tokens = tokenizer(text, add_special_tokens=False).input_ids
        ids += tokens
        scored += [is_scored] * len(tokens)
    with torch.no_grad():
        logits = model(torch.tensor([[*ids, tokenizer.eos_token_id]])).logits[0].double()
    log_probabilities = logits.log_softmax(-1)
    losses = [-log_probabilities[at - 1, ids[at]].item() for at in range(1, len(ids)) if scored[at]]
    return sum(losses), len(losses)
