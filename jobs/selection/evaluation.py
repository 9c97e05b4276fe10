"""What eval_results.json says of a cycle's checkpoints and of what is in service, ours or the original's shape."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.contracts import formats
from jobs.contracts.errors import InputError
from jobs.contracts.formats import require_format
from jobs.contracts.records import Json
from jobs.selection.measures import Figures, mean, point

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]


UNGATED = (
    "without sums by val thread, which evaluate writes, point estimates choose and nothing can be held "
    "against what is in service: no gate is possible"
)


@dataclass(frozen=True, slots=True)
class ValThreads:
    """The val threads of an evaluation. Each belongs to one half for ever, by a hash of its id."""

    threads: tuple[str, ...]
    num_tokens: NDArray[np.float64]
    num_questions: NDArray[np.float64]
    window_idx: NDArray[np.int64]
    """Of each thread's first chunk."""
    gates: Mask
    """Those of the half that judges the winner; the others choose it."""

    def scored(self) -> Mask:
        """Those with a token to score."""
        return self.num_tokens > 0


@dataclass(frozen=True, slots=True)
class Scored:
    """An adapter, or the bare base model, and what was measured of it."""

    path: str
    attempt: int = 0
    step: int | None = None
    sha256: str = ""
    key: str | None = None
    entry: Json = field(default_factory=dict)
    loss: NDArray[np.float64] | None = None
    """Sum of token losses by val thread, in nats; None: only the totals of `entry` are known."""
    rag: NDArray[np.float64] | None = None
    """Sum of the RAG metric by val thread."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The evaluations of all attempts of a cycle."""

    candidates: tuple[Scored, ...]
    """Checkpoints of all attempts, oldest first."""
    baseline: Scored | None
    """What is in service: the incumbent, or the bare base model; None: the files do not say."""
    threads: ValThreads | None
    """None: nothing is known by thread, as in the original's files."""
    num_attempts: int
    top_k: int = 5
    window_idx: int | None = None
    has_incumbent: bool = False
    notes: tuple[str, ...] = ()

    def figures(self, one: Scored, chosen: Mask | None) -> Figures:
        """What an adapter reaches on some threads; on all, as its entry says it, where none are known."""
        recall, fluency = self._number(one, f"retrieval_recall_at_{self.top_k}"), self._number(one, "fluency")
        if self.threads is None or chosen is None or one.loss is None:
            rag = self._number(one, f"rag_accuracy_at_{self.top_k}")
            loss, perplexity = point(_total_loss(one.entry)), self._number(one, "val_perplexity")
            return Figures(loss, None if rag is None else point(rag), recall, fluency, perplexity)
        loss = mean(one.loss[chosen], self.threads.num_tokens[chosen])
        questions = self.threads.num_questions[chosen]
        asked = one.rag is not None and questions.any()
        return Figures(loss, mean(one.rag[chosen], questions) if asked else None, recall, fluency)  # type: ignore[index]

    def is_measured(self, one: Scored, name: str, chosen: Mask | None) -> bool:
        """Whether an adapter's `rag` or `recall` is known on some threads."""
        if name == "recall" or self.threads is None or chosen is None or one.loss is None:
            column = f"rag_accuracy_at_{self.top_k}" if name == "rag" else f"retrieval_recall_at_{self.top_k}"
            return self._number(one, column) is not None
        return one.rag is not None and bool(self.threads.num_questions[chosen].any())

    def _number(self, one: Scored, name: str) -> float | None:
        value = one.entry.get(name)
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def half_of(thread_id: str) -> str:
    """`choose` or `gate`: the half that a val thread belongs to."""
    return "choose" if hashlib.sha256(f"half {thread_id}".encode()).digest()[0] % 2 else "gate"


def val_threads(
    threads: Sequence[str], num_tokens: Sequence[float], num_questions: Sequence[float], window_idx: Sequence[int]
) -> ValThreads:
    """The val threads, with their halves."""
    return ValThreads(
        tuple(threads),
        np.asarray(num_tokens, np.float64),
        np.asarray(num_questions, np.float64),
        np.asarray(window_idx, np.int64),
        np.array([half_of(one) == "gate" for one in threads], np.bool_),
    )


def read_evaluations(documents: Sequence[tuple[Json, str]]) -> Evaluation:
    """The contents of eval_results.json of every attempt, oldest first, each with where it lies.

    InputError for what is none, for one without checkpoints, and for attempts that were scored on other threads;
    IntegrityError for one of another format.
    """
    for value, where in documents:
        require_format(value, formats.EVAL_RESULTS, where, "run evaluate again")
    try:
        return _read(documents)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        where = ", ".join(where for _, where in documents)
        raise InputError(f"not what evaluate writes: {error}", where=where, hint="run evaluate again") from error


def _read(documents: Sequence[tuple[Json, str]]) -> Evaluation:
    parsed = [_Document(value, where, number) for number, (value, where) in enumerate(documents)]
    first = parsed[0]
    for other in parsed[1:]:
        if other.val() != first.val():
            hint = "evaluate every attempt on the same mail"
            raise InputError(f"its val threads are not those of {first.where}", where=other.where, hint=hint)
    threads = first.threads()
    candidates = tuple(one for document in parsed for one in document.candidates(threads))
    if not candidates:
        raise InputError("no checkpoints to choose from", where=first.where, hint="run train and evaluate first")
    entry = first.value.get("incumbent") or first.value.get("base")
    baseline = first.scored(entry, "the bare base model", threads) if entry else None
    notes = (() if threads else (UNGATED,)) + tuple(note for document in parsed for note in document.notes())
    return Evaluation(
        candidates,
        baseline,
        threads,
        len(parsed),
        int(first.value.get("top_k") or 5),
        first.value.get("window_idx"),
        bool(first.value.get("incumbent")),
        notes,
    )


@dataclass(frozen=True, slots=True)
class _Document:
    """One eval_results.json."""

    value: Json
    where: str
    attempt: int

    def __post_init__(self) -> None:
        checkpoints = self.value.get("checkpoints") if isinstance(self.value, dict) else None
        if not isinstance(checkpoints, list):
            raise InputError("not scores of checkpoints: it has no list of `checkpoints`", where=self.where)

    def val(self) -> Any:
        """What it says of the val threads; nothing in the original's shape."""
        return self.value.get("val")

    def threads(self) -> ValThreads | None:
        """The val threads; InputError where their lists do not fit each other."""
        val = self.val()
        if val is None:
            return None
        try:
            columns = [val[name] for name in ("threads", "num_tokens", "num_questions", "window_idx")]
            sizes = {len(column) for column in columns}
            if len(sizes) == 1:
                return val_threads(*columns)
        except (KeyError, TypeError, ValueError):
            pass
        raise InputError(
            "`val` does not list threads, num_tokens, num_questions and window_idx alike", where=self.where
        )

    def candidates(self, threads: ValThreads | None) -> Iterator[Scored]:
        """Its checkpoints, by step."""
        for number, entry in enumerate(self.value["checkpoints"]):
            if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
                raise InputError(f"checkpoint {number} has no path", where=self.where)
            yield self.scored(entry, entry["path"], threads)

    def notes(self) -> Iterator[str]:
        """Which of its checkpoints could not be scored, and so are no candidates."""
        if lost := self.value.get("not_scored"):
            of_attempt = f" of attempt {self.attempt + 1}" if self.attempt else ""
            yield f"not scored, and so no candidates{of_attempt}: {', '.join(map(str, lost))}"

    def scored(self, entry: Json, name: str, threads: ValThreads | None) -> Scored:
        """An entry; InputError where its sums do not fit the threads, or nothing was measured."""
        path = str(entry.get("path") or name)
        by_thread = entry.get("val_threads")
        loss = self._sums(path, by_thread, "loss", threads) if threads else None
        if threads and loss is None:
            raise InputError(f"{path} has no losses by val thread", where=self.where, hint="run evaluate again")
        if loss is None:
            _require_loss(entry, f"{self.where}: {path}")
        rag = self._sums(path, by_thread, "rag", threads) if threads else None
        attempt = int(self.value.get("attempt") or self.attempt)
        facts = (entry.get("step"), str(entry.get("sha256") or ""), entry.get("key"))
        return Scored(path, attempt, *facts, entry, loss, rag)

    def _sums(self, path: str, by_thread: Any, name: str, threads: ValThreads) -> NDArray[np.float64] | None:
        values = by_thread.get(name) if isinstance(by_thread, dict) else None
        if values is None:
            return None
        try:
            sums = np.asarray(values, np.float64)
        except (TypeError, ValueError):
            sums = np.zeros(0)
        if sums.shape != (len(threads.threads),):
            what = f"{path}: {len(values)} sums of {name} for {len(threads.threads)} val threads"
            raise InputError(what, where=self.where, hint="run evaluate again")
        return sums


def _require_loss(entry: Json, where: str) -> None:
    try:
        _total_loss(entry)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("it has neither val_perplexity nor val_loss", where=where) from error


def _total_loss(entry: Json) -> float:
    """Nats per token; ValueError, TypeError or KeyError where it does not say."""
    if entry.get("val_loss") is not None:
        return float(entry["val_loss"])
    return math.log(float(entry["val_perplexity"]))
