"""What `refrain plan` says of base models from a laptop's to 70B: the tables of docs/sizing.md.

    python benchmarks/sizing.py build/sizing docs/sizing.md

The weights are not there: `plan` reads a model's configuration and the headers of its weights, so a folder with the
shapes of a published model is enough. Mail is made up, 50 mails a week for half a year; the last week is the cycle's.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[1]
REFRAIN = Path(sys.executable).with_name("refrain")
GIB = 1 << 30


@dataclass(frozen=True)
class Shape:
    """Of a decoder in Llama's or Qwen's layout, as its config.json publishes it."""

    name: str
    layers: int
    width: int
    inner: int
    heads: int
    key_heads: int
    head_width: int
    vocabulary: int
    is_tied: bool = False

    def weights(self) -> Iterator[tuple[str, list[int]]]:
        """Names and shapes of its 2-D weights; norms and biases are a ten-thousandth."""
        yield "model.embed_tokens.weight", [self.vocabulary, self.width]
        queries, keys = self.heads * self.head_width, self.key_heads * self.head_width
        for layer in range(self.layers):
            inside = f"model.layers.{layer}."
            for name, outputs, inputs in (
                ("self_attn.q_proj", queries, self.width),
                ("self_attn.k_proj", keys, self.width),
                ("self_attn.v_proj", keys, self.width),
                ("self_attn.o_proj", self.width, queries),
                ("mlp.gate_proj", self.inner, self.width),
                ("mlp.up_proj", self.inner, self.width),
                ("mlp.down_proj", self.width, self.inner),
            ):
                yield f"{inside}{name}.weight", [outputs, inputs]
        if not self.is_tied:
            yield "lm_head.weight", [self.vocabulary, self.width]


SMALL = Shape("Qwen3-0.6B", 28, 1024, 3072, 16, 8, 128, 151936, is_tied=True)
EIGHT = Shape("Llama-3.1-8B", 32, 4096, 14336, 32, 8, 128, 128256)
THIRTY_TWO = Shape("Qwen2.5-32B", 64, 5120, 27648, 40, 8, 128, 152064)
SEVENTY = Shape("Llama-3.1-70B", 80, 8192, 28672, 64, 8, 128, 128256)

CASES: tuple[tuple[Shape, dict[str, Any]], ...] = (
    (SMALL, {"precision": "fp32", "microBatchTokens": 2048}),
    (SMALL, {"microBatchTokens": 8192}),
    (EIGHT, {"quantization": "4bit", "microBatchTokens": 2048, "gradientCheckpointing": True}),
    (EIGHT, {"microBatchTokens": 4096}),
    (EIGHT, {"microBatchTokens": 8192, "gradientCheckpointing": True}),
    (THIRTY_TWO, {"microBatchTokens": 4096, "gradientCheckpointing": True}),
    (SEVENTY, {"quantization": "4bit", "microBatchTokens": 2048, "gradientCheckpointing": True}),
    (SEVENTY, {"microBatchTokens": 4096, "gradientCheckpointing": True}),
    *(
        (SEVENTY, {**processes, "shardModel": True, "microBatchTokens": 4096, "gradientCheckpointing": True})
        for processes in ({"processesPerNode": 4}, {"nodes": 2, "processesPerNode": 8})
    ),
)


def write_model(shape: Shape, folder: Path, tokenizer: Tokenizer) -> None:
    """A folder with configuration, tokenizer, and weights that are a header alone."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"num_hidden_layers": shape.layers, "hidden_size": shape.width, "vocab_size": shape.vocabulary}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    header = {name: {"dtype": "BF16", "shape": size, "data_offsets": [0, 0]} for name, size in shape.weights()}
    data = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(data)) + data)
    tokenizer.save(str(folder / "tokenizer.json"))


def tokenizer_of(text: str) -> Tokenizer:
    """A byte-level BPE of 8,192 tokens, learnt from the mail itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=8192, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def refrain(*arguments: object, folder: Path) -> str:
    """What a command prints."""
    done = subprocess.run([REFRAIN, *map(str, arguments)], cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def plan(shape: Shape, training: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The plan of a week's cycle that trains that model."""
    spec = {
        "archive": shape.name.lower(),
        "store": {"url": "store"},
        "sources": [{"mbox": "archive.mbox"}],
        "model": {"base": f"models/{shape.name}"},
        "training": training,
    }
    cycle = {"apiVersion": "refrain.dev/v1alpha1", "kind": "RetrainCycle", "metadata": {"name": "week"}, "spec": spec}
    (folder / "cycle.yaml").write_text(yaml.safe_dump(cycle))
    return dict(json.loads(refrain("plan", "cycle.yaml", "--json", folder=folder)))


def rows(folder: Path) -> Iterator[str]:
    """The table, a row for each case."""
    heads = ["weights", "adapter, gradients, AdamW", "activations, logits", "in all", "a checkpoint"]
    yield f"| base model | training | parameters | {' | '.join(heads)} |"
    yield f"|---|---|{'--:|' * (1 + len(heads))}"
    for shape, training in CASES:
        print(f"{shape.name}: {training}", file=sys.stderr)
        planned = plan(shape, training, folder)
        memory, disk = planned["memory_bytes"], planned["disk_bytes"]
        learnt = memory["adapter"] + memory["gradients"] + memory["optimizer"]
        passing = memory["activations"] + memory["logits"]
        said = ", ".join(f"{name}: {str(value).lower()}" for name, value in training.items())
        cells = [f"{amount / GIB:,.1f} GiB" for amount in (memory["weights"], learnt, passing, memory["total"])]
        checkpoint = disk["checkpoints"] / planned["training"]["num_checkpoints"] / (1 << 20)
        number = planned["training"]["num_parameters"] / 1e9
        yield f"| {shape.name} | `{said}` | {number:,.2f} × 10⁹ | {' | '.join(cells)} | {checkpoint:,.0f} MiB |"


def main(folder: Path, page: Path) -> None:
    """Make mail and models in a folder, and write the table into the page."""
    folder.mkdir(parents=True, exist_ok=True)
    mail = folder / "archive.mbox"
    command = [sys.executable, ROOT / "tests" / "mailgen.py", mail, "--messages", "1300", "--days", "182"]
    subprocess.run(command, check=True)
    tokenizer = tokenizer_of(mail.read_text(errors="replace"))
    for shape in dict.fromkeys(shape for shape, _ in CASES):
        write_model(shape, folder / "models" / shape.name, tokenizer)
    table = "\n".join(rows(folder))
    text = page.read_text()
    made = re.sub(r"(<!-- plans -->\n).*?(<!-- /plans -->)", rf"\g<1>{table}\n\g<2>", text, flags=re.DOTALL)
    page.write_text(made)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
