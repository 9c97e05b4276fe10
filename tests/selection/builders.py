"""Evaluations and decided cycles to test with."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from jobs.contracts.artifacts import artifact_key, marker_key
from jobs.contracts.store import Store
from jobs.items import COMPLETE, StoreItems
from jobs.selection.evaluation import half_of


def thread_ids(num_each: int) -> list[str]:
    """Ids of which as many fall into each half, the choosing ones first."""
    names = [f"thread_{number:024x}" for number in range(20 * num_each + 40)]
    halves = {half: [one for one in names if half_of(one) == half][:num_each] for half in ("choose", "gate")}
    return halves["choose"] + halves["gate"]


class Results:
    """eval_results.json, made from what each adapter gains on every thread."""

    def __init__(self, num_each: int = 20, *, window_idx: int = 7, seed: int = 0, incumbent: bool = True) -> None:
        self.random = np.random.default_rng(seed)
        threads = thread_ids(num_each)
        self.num = len(threads)
        self.tokens = self.random.integers(50, 400, self.num).astype(float)
        self.questions = np.full(self.num, 2.0)
        self.base_loss, self.base_rag = self.random.normal(3.0, 0.3, self.num), self.random.beta(2, 5, self.num)
        self.json: dict[str, Any] = {
            "format": 1,
            "window_idx": window_idx,
            "attempt": 0,
            "top_k": 5,
            "rag_metric": "token_f1",
            "val": {
                "threads": threads,
                "num_tokens": self.tokens.tolist(),
                "window_idx": [window_idx if number % 4 == 0 else window_idx - 1 for number in range(self.num)],
                "num_questions": self.questions.tolist(),
            },
            "base": self.entry("base", 0.0, 0.0, sha256=""),
            "incumbent": self.entry("incumbent", 0.0, 0.0, sha256="1" * 64) if incumbent else None,
            "checkpoints": [],
        }

    def entry(self, path: str, nats: Any, rag: Any, *, sha256: str, spread: float = 0.0) -> dict[str, Any]:
        """An adapter that is better by so much, on every thread or by thread."""
        noise = self.random.normal(0, spread, (2, self.num)) if spread else np.zeros((2, self.num))
        loss = (self.base_loss - nats - noise[0]) * self.tokens
        accuracy = (self.base_rag + rag + noise[1]) * self.questions
        mean = float(loss.sum() / self.tokens.sum())
        return {
            "path": path,
            "step": int(path.rpartition("_")[2]) if path[-1].isdigit() else None,
            "sha256": sha256,
            "key": None,
            "val_loss": mean,
            "val_perplexity": float(np.exp(mean)),
            "rag_accuracy_at_5": float(accuracy.sum() / self.questions.sum()),
            "retrieval_recall_at_5": 0.8,
            "fluency": 0.9,
            "val_threads": {"loss": loss.tolist(), "rag": accuracy.tolist()},
            "val_windows": [{"window_idx": 3, "loss": mean * 100, "num_tokens": 100, "num_threads": 12}],
        }

    def add(self, path: str, nats: Any = 0.0, rag: Any = 0.0, *, spread: float = 0.02) -> Results:
        """One more checkpoint."""
        sha256 = hashlib.sha256(path.encode()).hexdigest()
        self.json["checkpoints"].append(self.entry(path, nats, rag, sha256=sha256, spread=spread))
        return self

    def write(self, path: Path) -> Path:
        """The file."""
        path.write_bytes(orjson.dumps(self.json))
        return path


def write_adapter(folder: Path, text: str) -> str:
    """A real adapter's files, whose one tensor is a text; its digest."""
    from safetensors.numpy import save_file

    from jobs.ml.adapter_files import adapter_digest

    folder.mkdir(parents=True, exist_ok=True)
    save_file({"layer.lora_A.weight": np.frombuffer(text.encode(), np.uint8)}, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 4, "target_modules": ["layer"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "refrain.json").write_text("{}")
    return adapter_digest(folder)


def put_adapter(store: Store, cycle: str, name: str, scratch: Path, text: str = "weights") -> dict[str, Any]:
    """A checkpoint in a store, with train's marker; its path, key and digest as a decision names them."""
    prefix = artifact_key(cycle, "train", "checkpoints")
    items = StoreItems(store, prefix, scratch / cycle)
    (items.folder / name / "training_state").mkdir(parents=True)
    sha256 = write_adapter(items.folder / name, f"{cycle} {name} {text}")
    (items.folder / name / "training_state" / "moments").write_text("moments")
    items.publish(name)
    marked = {one: hashlib.sha256(store.get(f"{prefix}/{one}/{COMPLETE}")).hexdigest() for one in items.names()}
    store.put(marker_key(cycle, "train"), orjson.dumps({"outputs": {"checkpoints": {"items": marked}}}))
    return {"path": name, "attempt": 0, "key": f"{prefix}/{name}", "sha256": sha256, "val_windows": [{"window_idx": 1}]}


def put_decision(store: Store, cycle: str, decision: dict[str, Any], attempt: int = 0) -> None:
    """What select leaves behind it."""
    data = orjson.dumps(decision)
    key = artifact_key(cycle, "select", "decision", attempt)
    store.put(key, data)
    outputs = {"decision": {"key": key, "sha256": hashlib.sha256(data).hexdigest()}}
    marker = {"outputs": outputs, "result": {"outcome": decision["outcome"]}, "inputs": {}, "config": {}}
    store.put(marker_key(cycle, "select", attempt), orjson.dumps(marker))


def decided(
    outcome: str, winner: dict[str, Any] | None, incumbent: str = "", window_idx: int = 7, **more: Any
) -> dict[str, Any]:
    """A decision against an incumbent with that digest; the bare base where it is empty."""
    in_service = {"path": "incumbent", "sha256": incumbent, "val_windows": [{"window_idx": 0}]}
    return {
        "format": 1,
        "outcome": outcome,
        "reason": {"Promote": "Better", "KeepIncumbent": "NotBetter", "Retrain": "SmallGain"}[outcome],
        "message": "because",
        "window_idx": window_idx,
        "delta": 0.05,
        "interval": [0.01, 0.09],
        "winner": winner,
        "incumbent": in_service if incumbent else None,
        "in_service": in_service,
    } | more


if __name__ == "__main__":  # an example for docs/selection.md
    Results(30, seed=4).add("step_40", 0.02).add("step_80", 0.12, 0.03).add("step_120", 0.10, 0.02).write(
        Path(sys.argv[1])
    )
