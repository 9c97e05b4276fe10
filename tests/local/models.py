"""Models for whole cycles: a tiny base model and a tiny embedding model, and a cycle that uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from local.cycles import document, write_mbox
from ml.tiny import tiny_base
from ml.tiny_embedder import tiny_embedder

WORDS = [
    "Plan 3 of 2024-01-08: the disk of array 14 is to be replaced before Friday. Done: 8.\n\nFrom: Date: Subject: "
]


def write_models(folder: Path) -> Path:
    """A folder with both models and no mail yet."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_base(folder / "base", WORDS, vocabulary=320, width=32)
    tiny_embedder(folder / "embedder")
    return folder


def whole_cycle(name: str, mailbox: str, **changes: Any) -> dict[str, Any]:
    """A cycle's document whose gate lets real gains of a model that knew nothing through."""
    spec: dict[str, Any] = {
        "archive": "workshop",
        "store": {"url": "store"},
        "sources": [{"mbox": mailbox}],
        "model": {"base": "./base", "lora": {"rank": 4, "alpha": 8}},
        "split": {"ratios": {"train": 50, "val": 40, "test": 10}, "maxTokens": 256},
        "window": {"minNewMessages": 4},
        "training": {"epochs": 2, "batchSize": 4, "learningRate": 0.02, "precision": "fp32"},
        "evaluation": {"embeddingModel": "./embedder", "maxQueries": 2, "maxNewTokens": 4},
        "selection": {"strategy": "LowestLoss", "maxRetrainAttempts": 0},
        "promotion": {"gate": {"confidence": 0.9, "minThreads": 2}},
        "retention": {"checkpoints": 1},
    }
    return document(name, spec | changes)


__all__ = ["whole_cycle", "write_mbox", "write_models"]
