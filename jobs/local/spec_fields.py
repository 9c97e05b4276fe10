"""Which field of a cycle's file a stage's setting comes from: `jobs.local.configs` read backwards, for messages."""

from __future__ import annotations

from pydantic.alias_generators import to_camel

_SECTIONS = {
    "filters": ("include", "exclude"),
    "model": ("base", "revision", "start_from"),
    "model.lora": ("rank", "alpha", "dropout", "target_modules"),
    "split": ("seed", "ratios", "window_size", "window_overlap", "max_tokens"),
    "window": ("min_new_messages",),
    "rehearsal": ("max_share", "min_per_bucket", "max_per_bucket", "max_samples"),
    "training": (
        *("epochs", "batch_size", "batch_tokens", "learning_rate", "learning_rate_schedule", "warmup_ratio"),
        *("weight_decay", "max_grad_norm", "gradient_accumulation", "gradient_checkpointing", "precision"),
        *("quantization", "save_steps"),
    ),
    "training.earlyStopping": ("patience", "min_delta"),
    "evaluation": ("embedding_model", "top_k", "max_queries", "max_new_tokens", "rag_metric"),
    "selection": (*("strategy", "weights", "thresholds", "improvement_threshold", "max_retrain_attempts", "ladder"),),
    "promotion.gate": ("confidence", "min_threads"),
}
_FIELDS = {
    "sources": "sources",
    "persona": "persona",
    "tokenizer": "model.base",
    "embedding_revision": "evaluation.embeddingModel",
    "window_period": "window.period",
    "active_windows": "window.active",
    "max_rehearsal_samples": "rehearsal.maxSamples",
    "replay_ratio": "rehearsal.ratio",
} | {name: f"{section}.{to_camel(name)}" for section, names in _SECTIONS.items() for name in names}


def field_of(setting: str) -> str | None:
    """The field below `spec` that a stage's setting is of; None for a setting that no file names."""
    return _FIELDS.get(setting)
