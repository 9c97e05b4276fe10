"""train: a LoRA adapter by the schedule, with a checkpoint every so many steps and at each epoch's end."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import orjson

from jobs.assignments.archive import Archive
from jobs.contracts.artifacts import BASE_KEY, artifact_key
from jobs.contracts.cycle.learning import rank_notes
from jobs.contracts.errors import ConfigError, CtrlCError, InputError, StoppedError, UsageError
from jobs.contracts.records import SPLITS, Chunk, Json
from jobs.corpus import open_corpus
from jobs.files import read_json, scratch_folder, write_json
from jobs.intake.exports import archive_folder
from jobs.processes import stop_noticed
from jobs.production import records
from jobs.replay.checks import checked
from jobs.replay.exposures import exposures
from jobs.replay.reading import read_chunks
from jobs.replay.sources import ChunkSource, open_source
from jobs.replay.table import UNKNOWN, ChunkTable, code_of
from jobs.replay.train_shard import require_date, shard_date, sources_of, write_train_shard
from jobs.stages import Inputs, Outputs, how, settings_of

if TYPE_CHECKING:
    from jobs.ml.base_model import Base
    from jobs.ml.training.data import TrainingData
    from jobs.ml.training.run import Outcome, Run
    from jobs.ml.training.steps import Step


@dataclass(frozen=True)
class Config:
    """Settings of `train`. The number of epochs and the batches are the schedule's."""

    base: str
    """A name on the hub, a folder, or a model in a store."""
    revision: str | None = None
    """Its commit on the hub."""
    start_from: Literal["Incumbent", "Base"] = "Incumbent"
    """Train the adapter in service further, where there is one; or a fresh one."""
    rank: int = 16
    alpha: float | None = None
    """The update is multiplied by alpha / rank; None: twice the rank."""
    dropout: float = 0.05
    """On the adapter's input."""
    target_modules: str = "all-linear"
    """all-linear, or names of modules with commas between them."""
    learning_rate: float = 2e-4
    """The peak."""
    learning_rate_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How it falls behind the warm-up; both begin anew in each cycle."""
    warmup_ratio: float = 0.03
    """Share of the steps in which it rises."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    gradient_accumulation: int = 1
    """Batches of the schedule in one step."""
    gradient_checkpointing: bool = False
    """Compute activations twice to save memory."""
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Of activations and frozen weights; the adapter is always trained in fp32."""
    quantization: Literal["4bit"] | None = None
    save_steps: int = 500
    patience: int | None = None
    """Evaluations in a row without improvement, until training ends; None: to the end of the schedule."""
    min_delta: float = 0.001
    """Fall of the val loss, in nats per token, that counts as improvement."""
    seed: int = 42
    """The attempt is added to it."""
    micro_batch_tokens: int | None = how(None)
    """Tokens, padding included, that go through the model at once; None: a whole batch."""
    report_to: tuple[str, ...] = how(())
    """tensorboard, mlflow, wandb."""
    progress_port: int | None = how(None)
    device: str | None = how(None)
    processes: int = how(1)
    """On this machine, where no launcher such as torchrun says how many there are."""
    shard_model: bool = how(default=False)
    """Cut the model over all processes instead of giving each a copy."""
    shard_date: str | None = how(None)
    """In the name of an archived train set; None: that of its newest mail."""
    tells: bool = how(default=True)
    """Whether it says on standard error where it goes on from and where its progress is served."""

    def __post_init__(self) -> None:
        # Settled here, so that a training goes on however its alpha was said.
        object.__setattr__(self, "alpha", float(2 * self.rank if self.alpha is None else self.alpha))


def run(config: Config, inputs: Inputs, outputs: Outputs) -> Json:
    """Train, or go on where an earlier run of the same settings and inputs was stopped.

    Raises InputError for a schedule that names a chunk of val or test, or one that the log does not hold;
    ConfigError for another base model than the archive's; StoppedError once it was told to stop and has saved.
    See `jobs.ml.training.run.train_adapter` for the rest.
    """
    from jobs.ml.base_model import find_base, load_encoder
    from jobs.ml.training.data import TrainingData
    from jobs.ml.training.steps import plan_steps

    require_date(config.shard_date)
    if config.shard_model and config.quantization:
        hint = "leave one of them out: shard_model, or quantization"
        raise ConfigError("a base model in 4 bits cannot be cut over the processes", where="train", hint=hint)
    path = inputs.one("schedule")
    schedule = read_json(path)
    steps = plan_steps(schedule, config.gradient_accumulation, str(path))
    source = _source(inputs)
    _require_train_chunks(steps, source, path, inputs)
    masks = _eval_masks(inputs, source)
    base = find_base(config.base, config.revision or _settled_revision(config, inputs))
    notes = _fix_base(base, inputs) + rank_notes(config.rank)
    encoder = load_encoder(base)
    corpus = open_corpus(inputs.paths, inputs.archive)
    chunks = {chunk.chunk_id: chunk for chunk in corpus.chunks({name for step in steps for name in step.chunk_ids})}
    examples = {name: encoder.example(chunk, stops=True) for name, chunk in chunks.items()}
    scored = corpus.chunks(masks) if masks else ()
    data = TrainingData(steps, examples, [encoder.example(one, masked=masks[one.chunk_id]) for one in scored])
    if config.patience is not None and not data.val_examples:
        hint = "leave out --early-stop, or make a val set with `refrain window`"
        raise UsageError("early stopping needs a val set, and there is none with a message to score", hint=hint)
    outcome = _trained(config, inputs, outputs, base, data)
    if "exposures" in outputs:
        _write_exposures(outputs["exposures"], outcome, data, chunks, _digest_of_start(config, inputs))
    return _written(config, outputs, outcome, data=data, chunks=chunks, schedule=schedule) | (
        {"notes": notes} if notes else {}
    )


def _trained(config: Config, inputs: Inputs, outputs: Outputs, base: Base, data: TrainingData) -> Outcome:
    from jobs.ml.training.progress import Progress, ProgressBar, served
    from jobs.ml.training.run import LOG_FOLDER, train_adapter

    def say(text: str) -> None:
        if config.tells:
            sys.stderr.write(f"train: {text}\n")

    progress = Progress(len(data.steps))
    with scratch_folder("refrain-trainer-") as scratch, served(progress, config.progress_port) as port:
        if port is not None:
            say(f"progress at http://localhost:{port}/progress")
        if "tensorboard" in config.report_to and not os.environ.get(LOG_FOLDER):
            say(f"TensorBoard's files are in {_report_folder(inputs, outputs)}")
        with stop_noticed(_tell_of_stopping) as told, ProgressBar(progress), _by_ctrl_c(told):
            return train_adapter(
                _run_of(config, inputs, outputs, base, data),
                outputs.items("checkpoints"),
                scratch=scratch,
                should_stop=lambda: bool(told),
                progress=progress,
                say=say,
            )


def _tell_of_stopping() -> None:
    """From a signal's handler, which may have come into the middle of another write."""
    with suppress(OSError):
        os.write(2, b"\ntrain: stops behind the step at hand, and saves; Ctrl-C again stops at once\n")


@contextmanager
def _by_ctrl_c(told: Sequence[int]) -> Iterator[None]:
    """Training that ends for a Ctrl-C says so."""
    try:
        yield
    except StoppedError as error:
        if signal.SIGINT in told:
            raise CtrlCError(error.what, where=error.where, hint=error.hint) from error
        raise


def _run_of(config: Config, inputs: Inputs, outputs: Outputs, base: Base, data: TrainingData) -> Run:
    from jobs.ml.training.run import Run
    from jobs.ml.training.settings import Adapter, Hyperparameters

    assert config.alpha is not None
    start_from = _start(config, inputs)
    began_with = _digest_of_start(config, inputs) or None
    # The base's digest stands for it, wherever it lies on this machine.
    said = {name: value for name, value in settings_of(config).items() if name not in ("base", "revision")}
    parts = [said, base.digest, base.tokenizer_digest, began_with, inputs.attempt, data.digest()]
    settings = Hyperparameters(
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
        shard_model=config.shard_model,
    )
    adapter = Adapter(
        config.rank,
        config.alpha,
        config.dropout,
        config.target_modules,
        config.gradient_checkpointing,
        config.quantization,
    )
    return Run(
        base,
        adapter,
        settings,
        data,
        hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest(),
        start_from=start_from,
        device=config.device,
        processes=config.processes,
        in_use=frozenset(_in_use(inputs, outputs, start_from)),
        report_folder=_report_folder(inputs, outputs),
    )


def _start(config: Config, inputs: Inputs) -> Path | None:
    """The adapter that training goes on from; None for a fresh one."""
    is_warm = config.start_from == "Incumbent" and bool(inputs.paths.get("incumbent"))
    return inputs.paths["incumbent"][0] if is_warm else None


def _digest_of_start(config: Config, inputs: Inputs) -> str:
    from jobs.ml.adapters import adapter_digest

    start_from = _start(config, inputs)
    return adapter_digest(start_from) if start_from else ""


def _report_folder(inputs: Inputs, outputs: Outputs) -> Path:
    """Where TensorBoard's files go: beside plain checkpoints; an archive has no folder here that stays."""
    if inputs.archive is None:
        return outputs["checkpoints"] / "runs"
    return Path(tempfile.gettempdir()) / "refrain-runs" / inputs.cycle


def _in_use(inputs: Inputs, outputs: Outputs, start_from: Path | None) -> Iterator[str]:
    """The names of checkpoints, where this training's go, that are in service or that a rollback may bring back."""
    if inputs.archive is not None:
        prefix = f"{artifact_key(inputs.cycle, 'train', 'checkpoints', inputs.attempt)}/"
        adapters = (record.adapter or "" for record in records(inputs.archive.store))
        yield from (adapter.removeprefix(prefix) for adapter in adapters if adapter.startswith(prefix))
        return
    folder = outputs["checkpoints"]
    links = [path for path in folder.glob("*") if path.is_symlink()]  # such as `production`
    for path in [*links, *([start_from] if start_from else [])]:
        if path.resolve().parent == folder.resolve():
            yield path.resolve().name


def _write_exposures(
    path: Path, outcome: Outcome, data: TrainingData, chunks: dict[str, Chunk], starts_from: str
) -> None:
    counts = Counter(name for step in data.steps[: outcome.num_steps] for name in step.chunk_ids)
    write_json(path, exposures([chunk for name, chunk in chunks.items() if name in counts], counts, starts_from))


def _written(
    config: Config,
    outputs: Outputs,
    outcome: Outcome,
    *,
    data: TrainingData,
    chunks: dict[str, Chunk],
    schedule: Json,
) -> Json:
    """Write what is left beside the checkpoints; the stage's result."""
    from jobs.ml.adapters import adapter_digest

    state = outcome.trainer_state
    steps = data.steps[: outcome.num_steps]
    counts = Counter(name for step in steps for name in step.chunk_ids)
    seen = [chunk for name, chunk in chunks.items() if name in counts]
    write_json(outputs["trainer_state"], state)
    losses = [line["loss"] for line in state["log_history"] if "loss" in line]
    items = outputs.items("checkpoints")
    last = items.bring(state["refrain"]["checkpoints"][-1])
    result = {
        "num_steps": outcome.num_steps,
        "num_epochs": len({step.epoch for step in steps}),
        "num_chunks": len(counts),
        "num_tokens": sum(data.lengths[name] * count for name, count in counts.items()),
        "num_target_tokens": sum(map(data.num_targets, steps)),
        "num_trainable": outcome.num_trainable,
        "num_checkpoints": len(state["refrain"]["checkpoints"]),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "best_eval_loss": state["best_metric"],
        "best_step": state["best_global_step"],
        "starts_from": state["refrain"]["starts_from"],
        "stopped_early": state["refrain"]["stopped_early"],
        "adapter_sha256": adapter_digest(last),
    }
    if "train_shard" in outputs:
        date = config.shard_date or shard_date(seen)
        result["train_shard"] = write_train_shard(outputs["train_shard"], seen, sources_of(schedule), date).name
    return result


def _source(inputs: Inputs) -> ChunkSource | None:
    """The log, or the assignments; None where a user's plain files come without them."""
    has_log = inputs.archive is not None or bool(inputs.paths.get("assignments"))
    return open_source(inputs.paths, inputs.archive, inputs.cycle) if has_log else None


def _require_train_chunks(steps: Sequence[Step], source: ChunkSource | None, path: Path, inputs: Inputs) -> None:
    """InputError where the schedule names a chunk that the log does not hold as one of train."""
    if source is None:
        raise UsageError("needs the assignments: no chunk is trained on unchecked", hint="give --assignments")
    listed = ChunkTable.from_entries(dict.fromkeys(name for step in steps for name in step.chunk_ids))
    where = inputs.archive.store.url if inputs.archive else ", ".join(map(str, inputs.paths["assignments"]))
    checked(listed, path, source.table, forgotten=source.forgotten, log_name=where)


def _settled_revision(config: Config, inputs: Inputs) -> str | None:
    """The commit that the archive's first cycle found, where the base is named as there."""
    if inputs.archive is None or not inputs.archive.store.exists(BASE_KEY):
        return None
    settled = orjson.loads(inputs.archive.store.get(BASE_KEY))
    revision: str | None = settled["revision"] if settled["base"] == config.base else None
    return revision


def _fix_base(base: Base, inputs: Inputs) -> list[str]:
    """Write down the archive's base model, or ConfigError where it is another one; what a user should know."""
    from jobs.ml.base_model import require_tokenizer

    split_by = _split_by(inputs)
    notes = [_BY_WHITE_SPACE] if split_by.startswith("whitespace") else []
    if inputs.archive is None:
        return notes
    store = inputs.archive.store
    if not notes:
        require_tokenizer(base, split_by, store.url)
    wanted = {
        "base": base.name,
        "revision": base.revision,
        "digest": base.digest,
        "tokenizer_digest": base.tokenizer_digest,
    }
    if not store.put_if_absent(BASE_KEY, orjson.dumps(wanted, option=orjson.OPT_INDENT_2)):
        found = orjson.loads(store.get(BASE_KEY))
        for name in ("digest", "tokenizer_digest"):
            if found[name] != wanted[name]:
                raise ConfigError(
                    f"the archive's adapters are of {_shown(found)}, this is {_shown(wanted)}: {name} "
                    f"{found[name]} there, {wanted[name]} here",
                    where=f"{store.url}/{BASE_KEY}",
                    hint="name that base model and revision, or begin a new archive",
                )
    return notes


_BY_WHITE_SPACE = "the archive was split by white space: its token counts and budgets are not the model's"


def _split_by(inputs: Inputs) -> str:
    """The digest of what split has counted tokens with; empty where plain files have lost the archive beside them."""
    archive = inputs.archive
    if archive is None:
        folders = [archive_folder(path) for path in inputs.paths.get("assignments", [])]
        archive = next((Archive.open(str(one), read_only=True) for one in folders if one.is_dir()), None)
    parameters = archive.log.parameters() if archive else None
    return str((parameters or {}).get("tokenizer", ""))


def _shown(base: Json) -> str:
    return f"{base['base']}@{base['revision']}" if base["revision"] else str(base["base"])


def _eval_masks(inputs: Inputs, source: ChunkSource | None) -> dict[str, list[str]]:
    """The val chunks, and the messages in each that are not scored; InputError for a chunk that is not of val."""
    if not inputs.paths.get("val_set"):
        return {}
    path = inputs.one("val_set")
    masks = {name: fields.get("masked_messages") or [] for block in read_chunks(path) for name, fields in block}
    listed = ChunkTable.from_entries(masks)
    table = source.table if source else listed
    for name, row in zip(masks, table.find(listed.chunk_ids).tolist(), strict=True):
        split = table.split[row] if row >= 0 else UNKNOWN
        if split != code_of("val"):
            what = "not in the assignments" if split == UNKNOWN else f"of {SPLITS[split]}"
            raise InputError(f"chunk {name} is {what}", where=str(path), hint="`refrain window --split val` lists them")
    return masks
