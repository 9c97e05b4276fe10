"""A small base model, made on the spot from mail: a tokenizer, and a Llama that has read the mail a few times.

    python examples/demo/base_model.py build/demo/base build/demo/mail/older/*.mbox

reads the mail by `refrain parse` and `refrain split`, trains a byte-level BPE tokenizer and then all
weights of the model, every token of the product's own template being a target, and saves both as
Hugging Face's models are: config.json, model.safetensors, tokenizer.json. Threads stand behind each
other by date and are cut into rows of equal length, so that what was said in one helps with the next. It
takes a fixed number of steps, not a time: the same mail and arguments give the same bytes on the
same machine and libraries.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from jobs.contracts.records import Chunk
from jobs.corpus import open_corpus

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|endoftext|>"
WARMUP = 0.05
"""Share of the steps in which the learning rate rises; then it falls to nothing, as a cosine."""


@dataclass(frozen=True)
class Size:
    """Of the model and its training. As it stands it is about 1M weights, and a minute on one core."""

    vocabulary: int = 2048
    width: int = 128
    layers: int = 4
    heads: int = 4
    steps: int = 400
    batch: int = 3
    learning_rate: float = 2e-3
    seed: int = 7
    positions: int = 4096
    row_tokens: int = 512


def main() -> None:
    """Make a base model."""
    parser = argparse.ArgumentParser(
        description="Make a small base model from mail: a tokenizer, and a Llama that has read the mail."
    )
    parser.add_argument("folder", type=Path, help="where the model goes")
    parser.add_argument("mail", type=Path, nargs="+", help="mboxes")
    for name, value in vars(Size()).items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(value), default=value, metavar="N", help="%(default)s"
        )
    options = vars(parser.parse_args())
    folder, mail = options.pop("folder"), options.pop("mail")
    size = Size(**options)
    started = time.monotonic()
    num_weights, num_rows = make(folder, mail, size)
    seconds = time.monotonic() - started
    trained = f"{num_rows:,} rows of {size.row_tokens} tokens, {size.steps} steps, {seconds:.0f} s"
    print(f"base model: {num_weights / 1e6:.2f}M weights, {trained}")


def make(folder: Path, mail: Sequence[Path], size: Size) -> tuple[int, int]:
    """A base model in a folder; how many weights it has, and of how many rows it has learnt."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="refrain-base-") as scratch:
        tokenizer = make_tokenizer(read_texts(mail, Path(scratch) / "words", size), size)
        save_tokenizer(tokenizer, folder)
        chunks = read_chunks(mail, Path(scratch) / "rows", size, tokenizer=folder)
    own_rows = rows(chunks, folder, size)
    model = pretrain(own_rows, size)
    model.save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters()), len(own_rows)


def read_chunks(mail: Sequence[Path], scratch: Path, size: Size, *, tokenizer: Path | None = None) -> list[Chunk]:
    """The mail as chunks, all of it for training, by date."""
    scratch.mkdir()
    messages, assignments = scratch / "messages.jsonl", scratch / "assignments.json"
    _refrain("parse", *mail, "-o", messages)
    how = ("--ratios", "1:0:0", "--max-tokens", size.row_tokens, "--tokenizer", tokenizer or "whitespace")
    _refrain("split", "-i", messages, "-m", assignments, *how)
    names = list(json.loads(assignments.read_text()))
    chunks = open_corpus({"assignments": [assignments]}, None).chunks(names)
    return sorted(chunks, key=lambda chunk: (chunk.messages[0].date, chunk.chunk_id))


def read_texts(mail: Sequence[Path], scratch: Path, size: Size) -> list[str]:
    """The mail as it stands in the template."""
    return [chunk.text for chunk in read_chunks(mail, scratch, size)]


def make_tokenizer(texts: Sequence[str], size: Size) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, trained on the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    # Digits one by one: a number that was never seen is still made of tokens that were.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size.vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """As Hugging Face's models have it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)


def rows(chunks: Sequence[Chunk], folder: Path, size: Size) -> list[list[int]]:
    """The tokens of all chunks, segment by segment and with the end of each text, in rows of equal length."""
    from jobs.ml.encoding import Encoder
    from jobs.ml.tokens import ModelCounter, load_token_counter

    counter = load_token_counter(str(folder))
    assert isinstance(counter, ModelCounter)
    (end,) = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    encoder = Encoder(counter, end_id=end["id"])
    tokens = [token for chunk in chunks for token in encoder.example(chunk).input_ids.tolist()]
    length = min(size.row_tokens, len(tokens))
    return [tokens[start : start + length] for start in range(0, len(tokens) - length + 1, length)]


def pretrain(tokens: Sequence[Sequence[int]], size: Size) -> LlamaForCausalLM:
    """A model that has been trained on the rows for a fixed number of steps."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_schedule_with_warmup

    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(size.seed)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=round(size.width * 8 / 3 / 8) * 8,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        max_position_embeddings=size.positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=size.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(size.steps * WARMUP), size.steps)
    losses: list[float] = []
    bar = tqdm(
        _batches(tokens, size), total=size.steps, desc="base model", unit="step", disable=not sys.stderr.isatty()
    )
    for batch in bar:
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        bar.set_postfix_str(f"loss {sum(losses[-20:]) / len(losses[-20:]):.2f}")
    return model.eval()


def _batches(tokens: Sequence[Sequence[int]], size: Size) -> Iterator[dict[str, Any]]:
    """Batches of rows in a seeded order, begun anew when all have been seen."""
    import torch

    generator = torch.Generator().manual_seed(size.seed)
    left: list[int] = []
    for _ in range(size.steps):
        while len(left) < size.batch:
            left += torch.randperm(len(tokens), generator=generator).tolist()
        ids = torch.tensor([tokens[row] for row in left[: size.batch]])
        del left[: size.batch]
        yield {"input_ids": ids, "labels": ids}


def _refrain(*arguments: object) -> None:
    command = [sys.executable, "-m", "jobs.cli", *map(str, arguments)]
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.stderr.write(done.stderr)
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
