"""Many answers at a time from one model, in a thread of its own: each takes one step in turn, so that all go on."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jobs.contracts.errors import PermanentError, RefrainError, TransientError
from jobs.serving.text_stream import TextStream

if TYPE_CHECKING:
    from jobs.ml.adapter_set import Adapter
    from jobs.ml.decoding import Decoder, Growing, Sampling
    from jobs.serving.vllm import VllmDecoder

_REST_SECONDS = 0.002
"""Of a round in which no answer got on, for all wait for another process; a model that reads here does get on."""

Reason = Literal["stop", "length", "time", "cancelled"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some more of an answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """An answer has come to its end: it is whole, cut off, out of time, or nobody waits for it any more."""

    reason: Reason
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The model could not go on with this answer."""

    error: RefrainError


Event = Piece | Ended | Failed


@dataclass(frozen=True, slots=True)
class Task:
    """A text to be written, and who hears of it. `tell` is called in the engine's thread, and must not block."""

    prompt: Sequence[int]
    adapter: Adapter
    sampling: Sampling
    max_new_tokens: int
    tell: Callable[[Event], object]
    stops: Sequence[str] = ()
    is_mail: bool = True
    """White space around a mail is no part of it."""
    seconds: float | None = None
    """How long it may take, waiting included."""


class Answering:
    """A task under way. `cancel` may be called by anyone, at any time."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.is_cancelled = False
        self.tokens: list[int] = []
        self.growing: Growing | None = None
        self.stream = TextStream(task.stops, trimmed=task.is_mail)
        self.deadline = None if task.seconds is None else time.monotonic() + task.seconds

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self.is_cancelled = True


class Engine:
    """See the module. Errors of one answer end that answer alone."""

    def __init__(self, decoder: Decoder | VllmDecoder, *, max_active: int = 32) -> None:
        self._decoder = decoder
        self._max_active = max_active
        self._waiting: deque[Answering] = deque()
        self._active: list[Answering] = []
        self._changed = threading.Condition()
        self._is_closed = False
        self._step_began: float | None = None
        self._got_on = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, task: Task) -> Answering:
        """Begin a task as soon as there is room, in the order of submission."""
        answering = Answering(task)
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the engine is closed")
            self._waiting.append(answering)
            self._changed.notify()
        return answering

    @property
    def num_active(self) -> int:
        """How many are under way."""
        return len(self._active)

    @property
    def num_waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def seconds_stuck(self) -> float:
        """For how long the model has not come back from one step; infinite where the thread is gone."""
        began = self._step_began
        if not self._thread.is_alive() and not self._is_closed:
            return float("inf")
        return 0.0 if began is None else time.monotonic() - began

    def close(self) -> None:
        """End all that is under way as cancelled, and the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._admit():
            self._got_on = False
            for answering in list(self._active):
                if not self._goes_on(answering):
                    answering.growing = None  # its request may last much longer, and need not hold the model's memory
                    self._active.remove(answering)
            if self._active and not self._got_on and self._decoder.is_elsewhere:
                time.sleep(_REST_SECONDS)
        for answering in (*self._active, *self._waiting):
            answering.task.tell(Ended("cancelled", len(answering.tokens)))

    def _admit(self) -> bool:
        """Wait for work; False where there will be none any more."""
        with self._changed:
            while not (self._waiting or self._active or self._is_closed):
                self._changed.wait()
            while self._waiting and len(self._active) < self._max_active:
                self._active.append(self._waiting.popleft())
            return not self._is_closed

    def _goes_on(self, answering: Answering) -> bool:
        """One step of one answer; False where it has ended."""
        tell = answering.task.tell
        if reason := _why_not(answering):
            tell(Ended(reason, len(answering.tokens)))
            return False
        try:
            return self._step(answering)
        except Exception as error:  # noqa: BLE001 - whatever the model's libraries raise, the other answers go on
            tell(Failed(as_told(error)))
            return False
        finally:
            self._step_began = None

    def _step(self, answering: Answering) -> bool:
        task, decoder = answering.task, self._decoder
        self._step_began = time.monotonic()
        if answering.growing is None:
            answering.growing = decoder.begin(task.prompt, task.adapter, task.sampling)
        token = decoder.step(answering.growing)
        if token is None:
            return True
        self._got_on = True
        is_end = token in decoder.encoder.stop_ids
        answering.tokens.append(token)
        text = decoder.encoder.decode(answering.tokens[: -1 if is_end else None])
        has_room = len(answering.tokens) < task.max_new_tokens
        goes_on = not is_end and has_room
        piece = answering.stream.grow(text) if goes_on else answering.stream.end(text)
        if piece:
            task.tell(Piece(piece))
        if goes_on and not answering.stream.is_stopped:
            return True
        whole = is_end or answering.stream.is_stopped
        task.tell(Ended("stop" if whole else "length", len(answering.tokens)))
        return False


def as_told(error: Exception) -> RefrainError:
    """What is told of whatever a model's libraries raise: worth trying again where memory or a disk was full."""
    if isinstance(error, RefrainError):
        return error
    is_full = isinstance(error, OSError | MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return (TransientError if is_full else PermanentError)(f"{type(error).__name__}: {error}")


def _why_not(answering: Answering) -> Reason | None:
    if answering.is_cancelled:
        return "cancelled"
    is_late = answering.deadline is not None and time.monotonic() > answering.deadline
    return "time" if is_late else None
