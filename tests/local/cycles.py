"""Cycles for tests: their files, a base model's tokenizer without weights, small mail of several weeks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from local.tokenizer import write_tokenizer
from splitting import mail

from jobs.contracts.cycle import RetrainCycle
from jobs.local.places import located

WEEKS = ("2024-01-01", "2024-01-08", "2024-01-15", "2024-01-22")


def spec_of(**changes: Any) -> dict[str, Any]:
    """A small spec, with some top-level fields given."""
    small: dict[str, Any] = {
        "archive": "workshop",
        "store": {"url": "store"},
        "sources": [{"mbox": "mail.mbox"}],
        "model": {"base": "./base"},
        "window": {"minNewMessages": 2},
    }
    return small | changes


def cycle_of(folder: Path, name: str = "w1", **changes: Any) -> RetrainCycle:
    """The cycle as `refrain run` has it, its file lying in `folder`."""
    return located(RetrainCycle.model_validate(document(name, spec_of(**changes))), folder)


def document(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A cycle as it stands in its file."""
    return {"apiVersion": "refrain.dev/v1alpha1", "kind": "RetrainCycle", "metadata": {"name": name}, "spec": spec}


def write_cycle(path: Path, name: str = "w1", **changes: Any) -> Path:
    """A cycle's file."""
    path.write_text(yaml.safe_dump(document(name, spec_of(**changes))))
    return path


def write_mbox(path: Path, *, weeks: tuple[str, ...] = WEEKS[:1], num_mails: int = 12) -> Path:
    """Threads of two mails each, so many mails in each of the weeks."""
    texts = []
    for week in weeks:
        for number in range(0, num_mails, 2):
            root = f"{week}.{number}@x.example"
            words = f"Plan {number} of {week}: the disk of array {number * 7} is to be replaced before Friday."
            texts += [
                mail(root, day=week, hour=number % 24, body=words, sender=f"p{number % 3}@x.example"),
                mail(f"re.{root}", day=week, hour=(number + 1) % 24, references=(root,), body=f"Done: {number}."),
            ]
    path.write_text("".join(f"From x Mon Jan  1 00:00:00 2024\n{one['email_message']}\n" for one in texts))
    return path


def workplace(folder: Path, **mailbox: Any) -> Path:
    """A folder with mail and a base model's tokenizer, for a cycle's file to lie in."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder / "base")
    write_mbox(folder / "mail.mbox", **mailbox)
    return folder
