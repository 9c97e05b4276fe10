"""Trains an adapter on what lies in the folder, in one of several ways, and tells how long that took.

python programs.py refrain|random|grouped|packed SHAPE

All have the same LoRA (on all matrices, dropout 0.05) and AdamW. The clock runs from the end of the
first step, in which libraries make themselves ready, to that of the last; that step's share of the work is
left out. Its last line is JSON.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE.parents[1] / "tests")]

from training.work import LONGEST, SHAPES, Shape, labels_of, texts  # noqa: E402

DROPOUT, RATE = 0.05, 2e-4
STEP_TEXTS = 16


class Clock:
    """Notes the end of each step of any optimiser: by the clock on a GPU, by CPU time elsewhere."""

    def __init__(self) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.ends: list[float] = []
        register_optimizer_step_post_hook(self._note)

    def _note(self, *_: Any) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self.ends.append(time.perf_counter())
        else:
            self.ends.append(time.process_time())

    def tell(self, padding: float) -> None:
        """Seconds for all texts once, as of the steps after the first; and what else was measured."""
        import torch

        num_steps = len(self.ends)
        seconds = (self.ends[-1] - self.ends[0]) * num_steps / (num_steps - 1)
        told = {"seconds": seconds, "padding": padding, "num_steps": num_steps}
        if torch.cuda.is_available():
            told["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        print(json.dumps(told))


def refrain(shape: Shape, *, is_deterministic: bool = True, is_compiled: bool = False) -> None:
    """`refrain train`, by the schedule of `refrain sample`."""
    from jobs.items import LocalItems
    from jobs.ml.base_model import Base
    from jobs.ml.training import run
    from jobs.ml.training.data import TrainingData
    from jobs.ml.training.settings import Adapter
    from jobs.ml.training.steps import plan_steps

    folder = Path()
    shutil.rmtree("checkpoints", ignore_errors=True)  # else it would go on from them
    if not is_deterministic:
        run.make_deterministic = _seeded
    if is_compiled:
        run.speed_up = partial(_compiled, run.speed_up)
    steps = plan_steps(json.loads((folder / "epoch_schedule.json").read_text()))
    data = TrainingData(steps, _examples(folder), [])
    whole = run.Run(
        Base("benchmark", None, folder / "base", "", ""),
        Adapter(shape.rank, 2 * shape.rank, DROPOUT, "all-linear"),
        _hyperparameters(),
        data,
    )
    clock = Clock()
    run.train_adapter(whole, LocalItems(folder / "checkpoints"), scratch=folder)
    lengths = data.lengths
    padded = sum(len(batch) * max(map(lengths.get, batch)) for step in steps for batch in step.batches)
    clock.tell(1 - sum(lengths.values()) / padded)


def _hyperparameters() -> Any:
    from jobs.ml.training.settings import Hyperparameters

    return Hyperparameters(
        learning_rate=RATE,
        learning_rate_schedule="cosine",
        warmup_ratio=0.03,
        weight_decay=0.0,
        max_grad_norm=1.0,
        save_steps=10**9,
        patience=None,
        min_delta=0.0,
        seed=42,
        precision="bf16",
        micro_batch_tokens=_fitting_tokens(),
    )


def _fitting_tokens() -> int | None:
    """How much goes through an 8B model at once where a GPU has less than an H200's memory."""
    import torch

    is_small = torch.cuda.is_available() and torch.cuda.get_device_properties(0).total_memory < 120 * 2**30
    return 8_192 if is_small else None


def _examples(folder: Path) -> dict[str, Any]:
    import numpy as np

    from jobs.ml.encoding import NO_MESSAGE, Example

    return {
        name: Example(
            name,
            np.array(ids, np.int32),
            np.array(labels_of(ids), np.int32),
            np.full(len(ids), NO_MESSAGE, np.int16),
        )
        for name, ids in texts(folder).items()
    }


def _seeded(seed: int) -> None:
    import torch

    torch.manual_seed(seed)


def _compiled(speed_up: Callable[[Any], int], peft_model: Any) -> int:
    for layer in peft_model.get_base_model().get_decoder().layers:
        layer.compile(dynamic=True)
    return speed_up(peft_model)


def trainer(shape: Shape, *, is_grouped: bool) -> None:
    """Transformers' Trainer with PEFT: 16 texts a step, padded to the longest; random ones, or of like length."""
    from transformers import Trainer

    folder = Path()
    padded: list[int] = []
    rows = [{"input_ids": ids, "labels": labels_of(ids), "length": len(ids)} for ids in texts(folder).values()]
    clock = Clock()
    Trainer(
        model=_peft_model(folder, shape),
        args=_arguments(
            per_device_train_batch_size=shape.their_batch,
            gradient_accumulation_steps=STEP_TEXTS // shape.their_batch,
            train_sampling_strategy="group_by_length" if is_grouped else "random",
            length_column_name="length",
        ),
        train_dataset=rows,
        data_collator=partial(_padded, padded),
    ).train()
    clock.tell(1 - sum(row["length"] for row in rows) / sum(padded))


def packed(shape: Shape) -> None:
    """TRL's SFTTrainer: texts packed into rows of 2,048, the loss without the logits in memory."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    folder = Path()
    rows = [{"input_ids": ids, "labels": labels_of(ids)} for ids in texts(folder).values()]
    random.Random(0).shuffle(rows)
    num_rows = min(shape.their_batch, shape.batch_tokens // LONGEST)
    clock = Clock()
    arguments = _settings() | {
        "per_device_train_batch_size": num_rows,
        "gradient_accumulation_steps": shape.batch_tokens // LONGEST // num_rows,
        "max_length": LONGEST,
        "packing": True,
        # Without the flash-attn package the other way needs a mask of all tokens by all, and is slower.
        "packing_strategy": "wrapped",
        "gradient_checkpointing": False,
        "shuffle_dataset": False,
    }
    SFTTrainer(
        model=_peft_model(folder, shape),
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder / "base"),
    ).train()
    clock.tell(0)


def _peft_model(folder: Path, shape: Shape) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    on_gpu = torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(
        folder / "base", dtype=torch.bfloat16 if on_gpu else torch.float32, device_map="cuda" if on_gpu else None
    )
    model.config.use_cache = False
    settings = LoraConfig(
        r=shape.rank,
        lora_alpha=2 * shape.rank,
        lora_dropout=DROPOUT,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, settings)


def _settings() -> dict[str, Any]:
    import torch

    return {
        "output_dir": "trainer",
        "num_train_epochs": 1,
        "learning_rate": RATE,
        "lr_scheduler_type": "cosine",
        "bf16": torch.cuda.is_available(),
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 42,
    }


def _arguments(**more: Any) -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(**_settings(), remove_unused_columns=False, **more)


def _padded(sizes: list[int], rows: list[dict[str, Any]]) -> dict[str, Any]:
    import torch

    width = max(len(row["input_ids"]) for row in rows)
    sizes.append(width * len(rows))

    def whole(key: str, filler: int) -> Any:
        return torch.tensor([row[key] + [filler] * (width - len(row[key])) for row in rows])

    ids = whole("input_ids", 0)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    mask = (torch.arange(width)[None] < lengths[:, None]).long()
    return {"input_ids": ids, "labels": whole("labels", -100), "attention_mask": mask}


PROGRAMS: dict[str, Callable[[Shape], None]] = {
    "refrain": refrain,
    "refrain-free": partial(refrain, is_deterministic=False),
    "refrain-compiled": partial(refrain, is_compiled=True),
    "random": partial(trainer, is_grouped=False),
    "grouped": partial(trainer, is_grouped=True),
    "packed": packed,
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](SHAPES[sys.argv[2]])
