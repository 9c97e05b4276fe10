"""The training half of a cycle, played: what each stage says, and what it leaves in the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from jobs.stages import Inputs, Outputs

SHA = "c" * 64
WINNER = {"path": "step_1", "attempt": 0, "sha256": SHA, "key": "cycles/w1/train/checkpoints/step_1"}


class Played:
    """The training half's stages as they are to be played: what select says by attempt, what promote makes of it."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, int]] = []
        self.outcomes = ["Promote"]
        self.fails: dict[str, Exception] = {}
        self.configs: dict[tuple[str, int], Any] = {}

    def play(self, stage: str, kind: str) -> Callable[[Any, Inputs, Outputs], dict[str, Any]]:
        def run(config: Any, inputs: Inputs, outputs: Outputs) -> dict[str, Any]:
            self.ran.append((stage, inputs.attempt))
            self.configs[stage, inputs.attempt] = config
            if error := self.fails.pop(stage, None):
                raise error
            if stage == "train":
                self._train(outputs, inputs.attempt)
            result = self._result(stage, config, inputs)
            outputs[kind].write_bytes(orjson.dumps(result))
            return result

        return run

    def _train(self, outputs: Outputs, attempt: int) -> None:
        items = outputs.items("checkpoints")
        for step in (1, 2):
            (items.folder / f"step_{step}").mkdir(parents=True)
            (items.folder / f"step_{step}" / "adapter_model.safetensors").write_bytes(f"{attempt} {step}".encode())
            items.publish(f"step_{step}")

    def _result(self, stage: str, config: Any, inputs: Inputs) -> dict[str, Any]:
        if stage == "select":
            assert len(inputs.paths["eval_results"]) == inputs.attempt + 1
            return {"outcome": self.outcomes[inputs.attempt], "message": "because", "winner": WINNER, "delta": 0.5}
        if stage != "promote":
            return RESULTS[stage]
        decision = orjson.loads(inputs.one("decision").read_bytes())
        if decision["outcome"] == "KeepIncumbent":
            return {"outcome": "NotPromoted", "message": "it gained too little"}
        if config.mode == "Manual" and not config.approve:
            return {"outcome": "AwaitingApproval", "message": f"--approve {SHA}"}
        return {"outcome": "Promoted", "message": "it gained"}


RESULTS: dict[str, dict[str, Any]] = {
    "train": {
        "num_steps": 4,
        "num_tokens": 1000,
        "num_checkpoints": 2,
        "first_loss": 3.0,
        "last_loss": 2.0,
        "best_eval_loss": 2.1,
        "best_step": 4,
        "starts_from": "base",
        "stopped_early": False,
    },
    "index": {"num_passages": 9, "num_messages": 8, "num_new_passages": 1},
    "evaluate": {
        "num_checkpoints": 2,
        "num_val_threads": 5,
        "best_val_perplexity": 9.0,
        "in_service_val_perplexity": 10.0,
        "notes": ["few threads"],
    },
}
PLAYED = {
    "train": "trainer_state",
    "index": "vector_index",
    "evaluate": "eval_results",
    "select": "decision",
    "promote": "production",
}
ONCE = ["train", "index", "evaluate", "select", "promote"]
