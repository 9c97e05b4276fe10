"""What of a stage's result stands in the status itself: figures, conditions, the decision. Pure."""

from __future__ import annotations

from typing import Any

from controller.objects import Json
from controller.planning import Planning
from controller.status import shortened
from jobs.contracts.cycle.status import Adapter, Decision, LogHead, StageStatus


def note_result(p: Planning, entry: StageStatus, result: Json) -> None:
    """What of a result stands in the status itself; ValueError where it is not what it should be."""
    if (window_idx := result.get("window_idx")) is not None:
        if type(window_idx) is not int:
            raise ValueError(f"window_idx is {window_idx!r}")
        p.set(window_idx=window_idx)
    if entry.name == "split" and result.get("log"):
        p.set(log=LogHead.model_validate(result["log"]))
    if entry.name == "train":
        p.condition("Trained", "True", "Trained", _trained(result))
    if entry.name == "evaluate":
        _note_scores(p, result)
    if entry.name == "select":
        p.set(decision=Decision.model_validate(result | {"message": shortened(str(result.get("message", "")))}))
        p.set(candidate=_adapter(result.get("candidate")), incumbent=_adapter(result.get("incumbent")))
        if result.get("outcome") == "Promote" and not (p.status.candidate and p.status.candidate.sha256):
            raise ValueError("it promotes no candidate")


def _note_scores(p: Planning, result: Json) -> None:
    """Say that there are scores, and of which checkpoints there are none."""
    if not (num_lost := int(result.get("num_not_scored") or 0)):
        p.condition("Evaluated", "True", "Evaluated", "every checkpoint was scored")
        return
    names = ", ".join(map(str, result.get("not_scored") or ()))
    total = num_lost + int(result.get("num_checkpoints") or 0)
    message = f"{num_lost} of {total} checkpoints were not scored, and are not chosen" + (f": {names}" if names else "")
    p.condition("Evaluated", "True", "NotAllScored", message)
    p.emit("NotAllScored", message, is_warning=True)


def _trained(result: Json) -> str:
    loss = result.get("best_eval_loss") or result.get("eval_loss")
    return f"val loss {loss:.4f}" if isinstance(loss, float) else "an adapter was trained"


def _adapter(said: Any) -> Adapter | None:
    if not isinstance(said, dict):
        return None
    scores = said.get("scores")
    return Adapter(
        adapter=said.get("adapter") or said.get("key"),
        sha256=said.get("sha256") or "",
        scores=scores if isinstance(scores, dict) else {},
    )
