"""A small world to evaluate in: an archive of some weeks, a tiny base model, adapters of it, and an index."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from ml.tiny import tiny_base
from ml.tiny_embedder import tiny_embedder
from splitting import mail, split
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.assignments.archive import Archive
from jobs.items import LocalItems
from jobs.ml.adapters import add_adapter, save_adapter
from jobs.ml.base_model import Base, find_base, load_model
from jobs.stages import Inputs, Outputs, evaluate, index, window

NUM_THREADS = 48
WINDOW, OVERLAP = 4, 1
CYCLE = "week"
_WORDS = ["array", "disk", "build", "kernel", "driver", "patch", "server", "backup", "mirror", "stripe", "check", "log"]
_PEOPLE = ("ann@example.org", "bob@example.org", "cyd@example.org")


def thread(number: int, num_mails: int = 5) -> list[dict[str, str]]:
    """A conversation: each mail answers the one before it, and refers to all."""
    week, mails = number % 3, []
    words = [_WORDS[(number * 7 + place * 5) % len(_WORDS)] for place in range(4)]
    for place in range(num_mails):
        said = f"The {words[place % 4]} of {words[(place + 1) % 4]} {number} is at step {place} again, and {words[-1]}"
        body = f"{said} is not.\nSee what {words[(number + place) % 4]} number {number * 3 + place} says tomorrow."
        mails.append(
            mail(
                f"t{number}.{place}@example.org",
                day=f"2024-01-{1 + 7 * week + place:02d}",
                hour=1 + number % 20,
                references=tuple(f"t{number}.{one}@example.org" for one in range(place)),
                sender=_PEOPLE[(number + place) % 3],
                subject=f"{'Re: ' if place else ''}{words[0]} {number}",
                body=body,
            )
        )
    return mails


@dataclass(frozen=True)
class World:
    """What evaluate reads, and how to run it."""

    folder: Path
    archive: Archive
    base: Base
    mails: dict[str, str]
    """Raw mails by Message-ID."""
    paths: dict[str, list[Path]]

    def config(self, **settings: Any) -> evaluate.Config:
        defaults = {"base": self.base.name, "max_new_tokens": 12, "max_queries": 40, "tells": False, "device": "cpu"}
        return evaluate.Config(**defaults | settings)

    def run(self, out: Path, paths: dict[str, list[Path]] | None = None, **settings: Any) -> dict[str, Any]:
        """What evaluate wrote."""
        outputs = Outputs({"eval_results": out})
        inputs = Inputs(self.paths | (paths or {}), self.archive, CYCLE)
        evaluate.run(self.config(**settings), inputs, outputs)
        return json.loads(out.read_text())

    def without(self, kind: str) -> World:
        return replace(self, paths={name: value for name, value in self.paths.items() if name != kind})


def refused(world: World, tmp_path: Path, paths: dict[str, list[Path]], **settings: Any) -> None:
    """Run it where it refuses to, having written nothing."""
    try:
        world.run(tmp_path / "out.json", paths, **settings)
    finally:
        assert not (tmp_path / "out.json").exists(), "it wrote something"


def write_adapter(base: Base, folder: Path, *, seed: int, size: float = 0.05, rank: int = 4) -> Path:
    """An adapter whose B matrices are not zero, as a trained one."""
    peft_model = add_adapter(load_model(base, device=torch.device("cpu")), rank=rank, alpha=8, dropout=0, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in peft_model.named_parameters():
        if ".lora_B." in name:
            parameter.data.copy_(size * torch.randn(parameter.shape, generator=generator))
    save_adapter(peft_model, folder, base=base)
    return folder


def learn(base_folder: Path, texts: list[str], num_steps: int = 150) -> None:
    """Train a base model a little, so that it writes something; the same weights every time."""
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    model = AutoModelForCausalLM.from_pretrained(base_folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    ids = [torch.tensor(tokenizer(text).input_ids[:160]) for text in texts]
    for step in range(num_steps):
        chosen = [ids[(step * 4 + number) % len(ids)] for number in range(4)]
        batch = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=-100)
        loss = model(input_ids=batch.clamp(min=0), labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(base_folder)


def make_world(folder: Path) -> World:
    """The archive, split 4 : 3 : 3 over three weeks; two checkpoints and an incumbent; the index."""
    mails = [one for number in range(NUM_THREADS) for one in thread(number)]
    texts = [one["email_message"] for one in mails]
    base_folder = tiny_base(folder / "base", texts, begins=True)
    learn(base_folder, [text.partition("\n\n")[2] for text in texts])
    base = find_base(str(base_folder))
    archive = Archive.open(str(folder / "archive"))
    cutting = {"window_size": WINDOW, "window_overlap": OVERLAP, "max_tokens": 1500, "ratios": (40, 30, 30)}
    split(archive, mails, folder, tokenizer=base.name, window_period="week", cycle=CYCLE, **cutting)
    sets = {"new_train": folder / "new_train.json", "val_set": folder / "val.json", "test_set": folder / "test.json"}
    inputs = Inputs(archive=archive, cycle=CYCLE)
    window.run(window.Config(), inputs, Outputs(sets))
    vector_index = folder / "index.json"
    embedder = tiny_embedder(folder / "embedder")
    settings = index.Config(embedding_model=str(embedder), device="cpu")
    index.run(settings, inputs, Outputs({"vector_index": vector_index}))
    items = LocalItems(folder / "checkpoints")
    for step in (4, 12):
        write_adapter(base, items.folder / f"step_{step}", seed=step)
        items.publish(f"step_{step}")
    paths = {
        "val_set": [sets["val_set"]],
        "test_set": [sets["test_set"]],
        "vector_index": [vector_index],
        "checkpoints": [items.folder],
        "incumbent": [write_adapter(base, folder / "incumbent", seed=1)],
    }
    return World(folder, archive, base, {one["message_id"]: one["email_message"] for one in mails}, paths)
