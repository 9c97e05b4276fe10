"""The one mapping from a cycle's spec to the settings of every stage."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any

from jobs.contracts import stages
from jobs.contracts.cycle import CycleSpec, RetrainCycle
from jobs.local.places import is_on_hub, name_and_revision
from jobs.selection.ladder import Rung, ladder_of, rung

POD_FIELDS = (
    "store.secretRef",
    "training.nodes",
    "evaluation.pods",
    "promotion.timeoutSeconds",
    "promotion.approvalTimeoutSeconds",
    "stages",
    "deadlineSeconds",
    "ttlSecondsAfterFinished",
)
"""What is about pods, objects and the waiting of a cluster: it means nothing on one machine."""

RUN_FIELDS = ("archive", "store", "retention", "suspend")
"""What is about the cycle as a whole, and no setting of a stage."""


@dataclass(frozen=True, slots=True)
class Machine:
    """How stages work here; results do not depend on it."""

    workers: int | None = None
    """Processes of the data stages; None for one per CPU."""
    device: str | None = None
    """`cuda`, `mps` or `cpu`; None for the best there is."""
    progress_port: int | None = None
    """Where training serves its progress over HTTP; None: nowhere."""
    tells: bool = False
    """Whether stages print reports of their own, beside the line that each gets anyway."""


def stage_config(name: str, cycle: RetrainCycle, attempt: int = 0, machine: Machine | None = None) -> Any:
    """The settings of a stage in an attempt of a cycle; its paths are located and its base's commit is known.

    Further attempts train by the ladder (`jobs.selection.ladder`): another learning rate, more rehearsal,
    another seed. What scores them stays as it is, so that all can be compared.
    """
    config = import_module(stages.stage(name).module).Config
    return config(**_SETTINGS[name](cycle.spec, attempt), **_how(config, machine or Machine()))


def _how(config: Any, machine: Machine) -> dict[str, Any]:
    """What of the machine a stage takes."""
    return {one.name: getattr(machine, one.name) for one in fields(config) if one.name in Machine.__slots__}


def _parse(spec: CycleSpec, _attempt: int) -> dict[str, Any]:
    return {
        "sources": tuple(map(str, spec.sources)),
        "include": tuple(map(str, spec.filters.include)),
        "exclude": tuple(map(str, spec.filters.exclude)),
        "imap_ca": os.environ.get("REFRAIN_IMAP_CA") or None,
    }


def _split(spec: CycleSpec, _attempt: int) -> dict[str, Any]:
    split = spec.split
    return {
        "seed": split.seed,
        "ratios": (split.ratios.train, split.ratios.val, split.ratios.test),
        "window_size": split.window_size,
        "window_overlap": split.window_overlap,
        "max_tokens": split.max_tokens,
        "tokenizer": tokenizer_of(spec),
        "window_period": spec.window.period,
    }


def tokenizer_of(spec: CycleSpec) -> str:
    """The base model's tokenizer, as `jobs.ml.tokens` takes it: token budgets are the model's."""
    model = spec.model
    return f"{model.base}@{model.revision}" if is_on_hub(model.base) and model.revision else model.base


def _window(spec: CycleSpec, _attempt: int) -> dict[str, Any]:
    return {"min_new_messages": spec.window.min_new_messages}


def _rehearse(spec: CycleSpec, _attempt: int) -> dict[str, Any]:
    return {
        "active_windows": spec.window.active,
        "max_rehearsal_samples": spec.rehearsal.max_samples,
        "max_per_bucket": spec.rehearsal.max_per_bucket,
        "seed": spec.split.seed,
    }


def _rung(spec: CycleSpec, attempt: int) -> Rung:
    return rung(attempt, ladder_of(spec.selection))


def _sample(spec: CycleSpec, attempt: int) -> dict[str, Any]:
    max_share = str(spec.rehearsal.max_share)
    return {
        "replay_ratio": max_share if _rung(spec, attempt).replay_at_cap else spec.rehearsal.ratio,
        "batch_size": spec.training.batch_size,
        "batch_tokens": spec.training.batch_tokens,
        "min_per_bucket": spec.rehearsal.min_per_bucket,
        "max_share": max_share,
        "max_samples": spec.rehearsal.max_samples,
        "epochs": spec.training.epochs,
        "active_windows": spec.window.active,
        "seed": spec.split.seed + attempt,
    }


def _train(spec: CycleSpec, attempt: int) -> dict[str, Any]:
    training, lora, stopping = spec.training, spec.model.lora, spec.training.early_stopping
    return {
        "base": spec.model.base,
        "revision": spec.model.revision,
        "start_from": spec.model.start_from,
        "rank": lora.rank,
        "alpha": lora.alpha,
        "dropout": lora.dropout,
        "target_modules": lora.target_modules,
        "learning_rate": training.learning_rate * _rung(spec, attempt).learning_rate_factor,
        "learning_rate_schedule": training.learning_rate_schedule,
        "warmup_ratio": training.warmup_ratio,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "gradient_accumulation": training.gradient_accumulation,
        "gradient_checkpointing": training.gradient_checkpointing,
        "precision": training.precision,
        "quantization": training.quantization,
        "save_steps": training.save_steps,
        "patience": stopping.patience if stopping else None,
        "min_delta": stopping.min_delta if stopping else 0.0,
        "seed": spec.split.seed,  # train adds the attempt itself
        "micro_batch_tokens": training.micro_batch_tokens,
        "report_to": tuple(training.report_to),
        "processes": training.processes_per_node,
        "shard_model": training.shard_model,
    }


def _index(spec: CycleSpec, _attempt: int) -> dict[str, Any]:
    name, revision = name_and_revision(spec.evaluation.embedding_model)
    return {"embedding_model": name, "embedding_revision": revision}


def _evaluate(spec: CycleSpec, _attempt: int) -> dict[str, Any]:
    evaluation = spec.evaluation
    return {
        "base": spec.model.base,
        "revision": spec.model.revision,
        "embedding_model": name_and_revision(evaluation.embedding_model)[0],
        "top_k": evaluation.top_k,
        "max_queries": evaluation.max_queries,
        "max_new_tokens": evaluation.max_new_tokens,
        "rag_metric": evaluation.rag_metric,
        "precision": spec.training.precision,
        "persona": tuple(spec.persona),
        "seed": spec.split.seed,
        "batch_tokens": evaluation.batch_tokens,
    }


def _select(spec: CycleSpec, _attempt: int) -> dict[str, Any]:
    selection, gate = spec.selection, spec.promotion.gate
    return {
        "strategy": selection.strategy,
        "weights": tuple(selection.weights.items()),
        "thresholds": tuple(selection.thresholds),
        "improvement_threshold": selection.improvement_threshold,
        "max_retrain_attempts": selection.max_retrain_attempts,
        "confidence": gate.confidence,
        "min_threads": gate.min_threads,
        "ladder": tuple(map(str, ladder_of(selection))),
        "top_k": spec.evaluation.top_k,
    }


def _promote(spec: CycleSpec, _attempt: int) -> dict[str, Any]:
    return {"approve": spec.promotion.approve, "mode": spec.promotion.mode}


_SETTINGS = {
    "parse": _parse,
    "split": _split,
    "window": _window,
    "rehearse": _rehearse,
    "sample": _sample,
    "train": _train,
    "index": _index,
    "evaluate": _evaluate,
    "select": _select,
    "promote": _promote,
}
assert set(_SETTINGS) == {row.name for row in stages.STAGES}


def ignored_fields(spec: CycleSpec) -> list[str]:
    """The fields about pods that this spec sets to something: a user is told that they do nothing here."""
    said = spec.model_dump(by_alias=True, exclude_defaults=True)
    return [name for name in POD_FIELDS if _is_in(said, name.split("."))]


def _is_in(said: Any, steps: list[str]) -> bool:
    for step in steps:
        if not isinstance(said, dict) or step not in said:
            return False
        said = said[step]
    return True
