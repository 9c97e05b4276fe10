"""One line for each stage of a run: what it did, and how long it took."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jobs.contracts.progression import Step
from jobs.contracts.records import Json
from jobs.contracts.words import counted
from jobs.local.running import Done

_WIDTH = len("evaluate (2)")


def lines_of(done: Done) -> Iterator[str]:
    """The line of a stage that has run, and its notes where it has run now."""
    yield line_of(done)
    if not done.had_finished:
        yield from map(note_line, done.result.get("notes", ()))


def note_line(note: str) -> str:
    """A note below a stage's line."""
    return f"{'':<{_WIDTH}}  note: {note}"


def line_of(done: Done) -> str:
    """The line of a stage that has run: name, what it did, how long."""
    name = name_of(done.step)
    what = said(done.step.stage, done.result)
    return (
        f"{name:<{_WIDTH}}  had finished: {what}"
        if done.had_finished
        else f"{name:<{_WIDTH}}  {what}  [{duration(done.seconds)}]"
    )


def name_of(step: Step) -> str:
    """A stage's name, and which attempt of the cycle it is of where that is not the first."""
    return step.stage + (f" ({step.attempt + 1})" if step.attempt else "")


def duration(seconds: float) -> str:
    """As people read it: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def said(stage: str, result: Json) -> str:
    """What a stage did, by its result."""
    if "share" in result:
        return f"share {result['share']}"
    return _SAID.get(stage, _counts)(result)


def _counts(result: Mapping[str, Any]) -> str:
    """A result's numbers and words by their own names, for stages that need no better line."""
    shown = [
        f"{name.removeprefix('num_').replace('_', ' ')} {_number(value)}"
        for name, value in result.items()
        if isinstance(value, int | float | str) and not isinstance(value, bool) and len(str(value)) <= 80
    ]
    return ", ".join(shown) or "done"


def _number(value: float | str) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else value


def _parse(result: Mapping[str, Any]) -> str:
    if not result["num_sources"]:
        return "no sources: what the log holds already"
    parts = [counted(result["num_kept"], "mail")]
    for what, name in (("rejected", "num_rejected"), ("left out", "num_filtered")):
        if number := sum(result[name].values()):
            parts.append(f"{number:,} {what} ({_reasons(result[name])})")
    return ", ".join(parts)


def _reasons(numbers: Mapping[str, int]) -> str:
    """The most frequent reasons, those first."""
    first = sorted(numbers, key=lambda reason: (-numbers[reason], reason))
    return ", ".join(first[:3]) + (" …" if len(first) > 3 else "")


def _split(result: Mapping[str, Any]) -> str:
    chunks = result["num_chunks"]
    shares = ", ".join(f"{name} {number:,}" for name, number in chunks.items())
    return (
        f"{counted(result['num_new'], 'new mail')} in {counted(result['num_threads'], 'thread')}: "
        f"{counted(sum(chunks.values()), 'chunk')} ({shares}); window {result['window_idx']}"
    )


def _window(result: Mapping[str, Any]) -> str:
    new = counted(result["num_new_train_messages"], "new train message")
    sets = f"{result['num_val_chunks']:,} val and {result['num_test_chunks']:,} test chunks"
    return f"window {result['window_idx']}: {new} in {counted(result['num_new_train_chunks'], 'chunk')}; {sets}"


def _rehearse(result: Mapping[str, Any]) -> str:
    return f"{result['num_manifest_chunks']:,} of {counted(result['num_old_chunks'], 'old chunk')} may be rehearsed"


def _sample(result: Mapping[str, Any]) -> str:
    batches = counted(result["num_batches"], "batch", "batches")
    return (
        f"{batches} in {counted(result['num_epochs'], 'epoch')}; rehearsal {result['share_chunks']:.1%} of the "
        f"chunks, {result['share_tokens']:.1%} of the tokens; padding {result['padding']:.1%}"
    )


def _train(result: Mapping[str, Any]) -> str:
    steps = f"{counted(result['num_steps'], 'step')} from the {result['starts_from']}"
    losses = f"loss {result['first_loss']:.3f} to {result['last_loss']:.3f}"
    if result["best_eval_loss"] is not None:
        losses += f", val loss {result['best_eval_loss']:.3f} at step {result['best_step']}"
    early = ", stopped early" if result["stopped_early"] else ""
    return f"{steps}: {losses}{early}; {counted(result['num_checkpoints'], 'checkpoint')}"


def _index(result: Mapping[str, Any]) -> str:
    passages = counted(result["num_passages"], "passage")
    return f"{passages} of {counted(result['num_messages'], 'message')}, {result['num_new_passages']:,} of them new"


def _evaluate(result: Mapping[str, Any]) -> str:
    lost = f" (not scored: {result['num_not_scored']:,})" if "num_not_scored" in result else ""
    on = counted(result["num_val_threads"], "val thread")
    return (
        f"{counted(result['num_checkpoints'], 'checkpoint')}{lost} on {on}: "
        f"the best has perplexity {result['best_val_perplexity']:.2f}, what is in service "
        f"{result['in_service_val_perplexity']:.2f}"
    )


def _select(result: Mapping[str, Any]) -> str:
    return f"{result['outcome']}: {result['message']}"


def _promote(result: Mapping[str, Any]) -> str:
    """The outcome alone: its message stands in the line above, and in that of the cycle below."""
    if not result.get("seq"):
        return str(result["outcome"])
    stays = "" if result["outcome"] == "Promoted" else " stays"
    return f"{result['outcome']} (record {result['seq']}{stays})"


_SAID: dict[str, Callable[[Mapping[str, Any]], str]] = {
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
