"""train: a LoRA adapter by the schedule, with a checkpoint every so many steps and at each epoch's end."""

from __future__ import annotations

import hashlib
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson

from jobs.contracts.artifacts import BASE_KEY
from jobs.contracts.errors import ConfigError, UsageError
from jobs.contracts.records import Chunk, Json, short_digest
from jobs.corpus import open_corpus
from jobs.files import read_json, scratch_folder, write_json
from jobs.items import file_digest
from jobs.replay.checks import checked
from jobs.replay.sources import open_source
from jobs.replay.table import ChunkTable
from jobs.stages import Inputs, Outputs, how, settings_of

if TYPE_CHECKING:
    from jobs.ml.base_model import Base


@dataclass(frozen=True)
class Config:
    """Settings of `train`. The number of epochs and the batches are the schedule's."""

    base: str
    revision: str | None = None
    start_from: Literal["Incumbent", "Base"] = "Incumbent"
    rank: int = 16
    alpha: float = 32
    dropout: float = 0.05
    target_modules: str = "all-linear"
    learning_rate: float = 2e-4
    learning_rate_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    gradient_accumulation: int = 1
    gradient_checkpointing: bool = False
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    quantization: Literal["4bit"] | None = None
    save_steps: int = 500
    patience: int | None = None
    min_delta: float = 0.001
    seed: int = 42
    micro_batch_tokens: int | None = how(None)
    report_to: tuple[str, ...] = how(())
    progress_port: int | None = how(None)
    device: str | None = how(None)
    processes: int = how(1)


def run(config: Config, inputs: Inputs, outputs: Outputs) -> Json:
    """Train, or go on where an earlier run of the same settings and inputs was stopped.

    Raises InputError for a schedule that names a chunk of val or test, or one that the log does not hold;
    ConfigError for another base model than the archive's; StoppedError after a SIGTERM, once it has saved.
    """
    from jobs.ml.base_model import find_base, load_encoder
    from jobs.ml.training.run import Adapter, train_adapter
    from jobs.ml.training.settings import Hyperparameters
    from jobs.ml.training.steps import plan_steps

    path = inputs.one("schedule")
    steps = plan_steps(read_json(path), config.gradient_accumulation, str(path))
    _require_train_chunks(steps, inputs, path)
    base = find_base(config.base, config.revision)
    _fix_base(base, inputs)
    encoder = load_encoder(base)
    corpus = open_corpus(inputs.paths, inputs.archive)
    counts = Counter(chunk_id for step in steps for chunk_id in step.chunk_ids)
    chunks = list(corpus.chunks(counts))
    examples = {chunk.chunk_id: encoder.example(chunk, stops=True) for chunk in chunks}
    masks = _eval_masks(inputs)
    val_examples = [encoder.example(one, masked=masks[one.chunk_id]) for one in corpus.chunks(masks)] if masks else []
    val_examples = [example for example in val_examples if example.num_targets]
    if config.patience is not None and not val_examples:
        raise UsageError("early stopping needs a val set, and it is empty", hint="leave out the patience")
    start_from = inputs.paths["incumbent"][0] if _is_warm(config, inputs) else None
    adapter = Adapter(
        config.rank,
        config.alpha,
        config.dropout,
        config.target_modules,
        start_from,
        config.gradient_checkpointing,
        config.quantization,
    )
    with scratch_folder("refrain-trainer-") as scratch, _sigterm_noticed() as told:
        state = train_adapter(
            base,
            adapter,
            steps,
            examples,
            val_examples,
            settings=Hyperparameters(
                learning_rate=config.learning_rate,
                learning_rate_schedule=config.learning_rate_schedule,
                warmup_ratio=config.warmup_ratio,
                weight_decay=config.weight_decay,
                max_grad_norm=config.max_grad_norm,
                save_steps=config.save_steps,
                patience=config.patience,
                min_delta=config.min_delta,
                seed=config.seed + inputs.attempt,
                precision=config.precision,
                micro_batch_tokens=config.micro_batch_tokens,
                report_to=config.report_to,
            ),
            items=outputs.items("checkpoints"),
            run_digest=_run_digest(config, inputs, base),
            device=config.device,
            should_stop=lambda: bool(told),
            scratch=scratch,
        )
    write_json(outputs["trainer_state"], state)
    if "exposures" in outputs:
        write_json(outputs["exposures"], _exposures(chunks, counts))
    losses = [line["loss"] for line in state["log_history"] if "loss" in line]
    items = outputs.items("checkpoints")
    return {
        "num_steps": state["global_step"],
        "num_epochs": steps[state["global_step"] - 1].epoch + 1,
        "num_chunks": len(counts),
        "num_target_tokens": sum(examples[name].num_targets * count for name, count in counts.items()),
        "num_checkpoints": len(items.names()),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "best_eval_loss": state["best_metric"],
        "best_step": state["best_global_step"],
        "starts_from": "incumbent" if start_from else "base",
    }


def _require_train_chunks(steps: list[Any], inputs: Inputs, path: Path) -> None:
    """InputError where the schedule names a chunk that the log does not hold as one of train."""
    source = open_source(inputs.paths, inputs.archive, inputs.cycle)
    listed = ChunkTable.from_entries(dict.fromkeys(chunk_id for step in steps for chunk_id in step.chunk_ids))
    where = inputs.archive.store.url if inputs.archive else ", ".join(map(str, inputs.paths.get("assignments", [])))
    checked(listed, path, source.table, forgotten=source.forgotten, log_name=where)


def _fix_base(base: Base, inputs: Inputs) -> None:
    """Write down the archive's base model, or ConfigError where it is another one."""
    if inputs.archive is None:
        return
    parameters = inputs.archive.log.parameters() or {}
    if (own := parameters.get("tokenizer", "")) != base.tokenizer_digest and not own.startswith("whitespace"):
        raise ConfigError(
            f"its tokenizer has the digest {base.tokenizer_digest}, the archive was split with {own}",
            where=base.name,
            hint="name the base model whose tokenizer the archive was split with",
        )
    store = inputs.archive.store
    wanted = {
        "base": base.name,
        "digest": base.digest,
        "revision": base.revision,
        "tokenizer_digest": base.tokenizer_digest,
    }
    if store.put_if_absent(BASE_KEY, orjson.dumps(wanted, option=orjson.OPT_INDENT_2)):
        return
    found = orjson.loads(store.get(BASE_KEY))
    if found["digest"] != base.digest:
        raise ConfigError(
            f"the archive's adapters are of {found['base']} ({found['digest']}), this is {base.name} ({base.digest})",
            where=f"{store.url}/{BASE_KEY}",
            hint="name that base model, or begin a new archive",
        )


def _eval_masks(inputs: Inputs) -> dict[str, list[str]]:
    """The val chunks, and the messages in each that are not scored."""
    if not inputs.paths.get("val_set"):
        return {}
    return {entry["chunk_id"]: entry.get("masked_messages", []) for entry in read_json(inputs.one("val_set"))}


def _is_warm(config: Config, inputs: Inputs) -> bool:
    return config.start_from == "Incumbent" and bool(inputs.paths.get("incumbent"))


def _run_digest(config: Config, inputs: Inputs, base: Base) -> str:
    """Of all that the run's outcome depends on."""
    files = {kind: file_digest(inputs.one(kind)) for kind in ("schedule", "val_set") if inputs.paths.get(kind)}
    if _is_warm(config, inputs):
        files["incumbent"] = file_digest(inputs.paths["incumbent"][0] / "adapter_model.safetensors")
    parts = [settings_of(config), files, base.digest, inputs.attempt]
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _exposures(chunks: list[Chunk], counts: Counter[str]) -> Json:
    """How often each message (short digest of its Message-ID) was a target, and how many were so often."""
    messages: Counter[str] = Counter()
    for chunk in chunks:
        targets = {message.message_id for message in chunk.messages if not message.context}
        for message_id in targets:
            messages[short_digest(message_id)] += counts[chunk.chunk_id]
    histogram = Counter(messages.values())
    return {
        "num_messages": len(messages),
        "histogram": {str(times): histogram[times] for times in sorted(histogram)},
        "messages": dict(sorted(messages.items())),
        "chunks": dict(sorted(counts.items())),
    }


@contextmanager
def _sigterm_noticed() -> Iterator[list[int]]:
    """A list that is empty until the process is told to stop: training then ends after its step, and saves."""
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)
