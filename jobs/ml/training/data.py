"""What is trained on and what it is evaluated on, encoded once; as files, for processes that are sent it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from jobs.files import read_json, write_json
from jobs.ml.encoding import NO_MESSAGE, Example
from jobs.ml.training.steps import Step

_ARRAYS = "examples.npz"
_PLAN = "plan.json"


@dataclass(frozen=True)
class TrainingData:
    """Steps, and the texts that they name as token ids."""

    steps: Sequence[Step]
    examples: Mapping[str, Example]
    """By chunk id."""
    val_examples: Sequence[Example]
    """May be none. Those without a target are left out."""
    lengths: Mapping[str, int] = field(init=False)
    """Tokens of each chunk."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "val_examples", [one for one in self.val_examples if one.num_targets])
        object.__setattr__(self, "lengths", {name: len(example) for name, example in self.examples.items()})

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return max(map(len, [*self.examples.values(), *self.val_examples]))

    def num_targets(self, step: Step) -> int:
        """How many tokens of a step are targets."""
        return sum(self.examples[name].num_targets for name in step.chunk_ids)

    def digest(self) -> str:
        """Of every token, every target, and their order."""
        digest = hashlib.sha256(orjson.dumps([(step.epoch, step.batches) for step in self.steps]))
        for example in [*(self.examples[name] for name in sorted(self.examples)), *self.val_examples]:
            digest.update(orjson.dumps([example.chunk_id, len(example)]))
            digest.update(example.input_ids.tobytes() + example.labels.tobytes())
        return digest.hexdigest()

    def write(self, folder: Path) -> None:
        """As files; OutputError."""
        listed = [*self.examples.values(), *self.val_examples]
        plan = {
            "steps": [(step.epoch, step.batches, step.is_last_of_epoch) for step in self.steps],
            "chunk_ids": [example.chunk_id for example in listed],
            "num_val": len(self.val_examples),
        }
        write_json(folder / _PLAN, plan)
        ids, labels = ([getattr(one, name) for one in listed] for name in ("input_ids", "labels"))
        arrays: dict[str, Any] = {"ends": np.cumsum([len(one) for one in listed])}
        np.savez(folder / _ARRAYS, input_ids=np.concatenate(ids), labels=np.concatenate(labels), **arrays)

    @classmethod
    def read(cls, folder: Path) -> TrainingData:
        """What `write` has written."""
        plan = read_json(folder / _PLAN)
        with np.load(folder / _ARRAYS, allow_pickle=False) as arrays:
            parts = [np.split(arrays[name], arrays["ends"][:-1]) for name in ("input_ids", "labels")]
        listed = [_example(*one) for one in zip(plan["chunk_ids"], *parts, strict=True)]
        num_train = len(listed) - plan["num_val"]
        steps = [Step(epoch, tuple(map(tuple, batches)), is_last) for epoch, batches, is_last in plan["steps"]]
        return cls(steps, {one.chunk_id: one for one in listed[:num_train]}, listed[num_train:])


def _example(chunk_id: str, input_ids: Any, labels: Any) -> Example:
    return Example(chunk_id, input_ids, labels, np.full(len(input_ids), NO_MESSAGE, np.int16))
