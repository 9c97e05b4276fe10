"""A tiny language model, made on the spot and saved as Hugging Face's models are.

python tests/ml/tiny.py base/ messages.jsonl
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

END = "<|end|>"
BEGIN = "<|begin|>"


def tiny_base(
    folder: Path,
    texts: Iterable[str],
    *,
    vocabulary: int = 384,
    width: int = 48,
    layers: int = 2,
    seed: int = 0,
    begins: bool = False,
    tied: bool = True,
) -> Path:
    """A Llama with random weights and a byte-level BPE tokenizer trained on the texts, in a folder.

    With `begins` the tokenizer puts a token before each text, as Llama's does.
    """
    disable_progress_bar()
    tokenizer = _tokenizer(texts, vocabulary)
    if begins:
        start = tokenizer.token_to_id(BEGIN)
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, start)])
    bos = {"bos_token": BEGIN} if begins else {}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, **bos).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=0,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, BEGIN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def main() -> None:
    """From the records that `refrain parse` wrote."""
    parser = argparse.ArgumentParser(description="A tiny base model with random weights.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("records", type=Path)
    arguments = parser.parse_args()
    lines = arguments.records.read_text(encoding="utf-8").splitlines()
    tiny_base(arguments.folder, (json.loads(line)["email_message"] for line in lines))


if __name__ == "__main__":
    main()
