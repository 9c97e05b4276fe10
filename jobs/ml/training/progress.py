"""How far training is and how fast: on a terminal, and over HTTP. Its clocks get into no artifact."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import orjson

from jobs.contracts.errors import ConfigError
from jobs.contracts.records import Json
from jobs.progress import bar

_WINDOW_STEPS = 50
"""Speed is that of so many steps at most."""


@dataclass(slots=True)
class Progress:
    """What is known of a training run while it runs. Written by the trainer, read by other threads."""

    num_steps: int
    step: int = 0
    epoch: float = 0.0
    loss: float | None = None
    learning_rate: float | None = None
    eval_loss: float | None = None
    num_tokens: int = 0
    num_padded: int = 0
    scoring: str = ""
    """How far the val set is scored, while it is."""
    watch: Callable[[], object] | None = None
    """Called after each step, and each batch that is scored."""
    _marks: deque[tuple[float, int, int]] = field(
        default_factory=lambda: deque([(time.monotonic(), 0, 0)], maxlen=_WINDOW_STEPS + 1)
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, step: int, epoch: float) -> None:
        """Training begins, behind a step."""
        with self._lock:
            self.step, self.epoch = step, epoch
            self._marks.clear()
            self._marks.append((time.monotonic(), step, self.num_tokens))

    def step_done(
        self, step: int, *, epoch: float, loss: float, learning_rate: float, tokens: int, padded: int
    ) -> None:
        """A step is done that read so many tokens, without and with padding."""
        with self._lock:
            self.step, self.epoch, self.loss, self.learning_rate = step, epoch, loss, learning_rate
            self.num_tokens += tokens
            self.num_padded += padded
            self._marks.append((time.monotonic(), step, self.num_tokens))
        if self.watch is not None:
            self.watch()

    def scored(self, num_done: int, num_batches: int) -> None:
        """So many batches of the val set are scored."""
        self.scoring = f"val {num_done}/{num_batches}" if num_done < num_batches else ""
        if self.watch is not None:
            self.watch()

    def as_json(self) -> Json:
        """What `/progress` answers: shares from 0 to 1, seconds, nats per target token; null: not known yet."""
        with self._lock:
            (began, first, tokens_then), (now, last, tokens_now) = self._marks[0], self._marks[-1]
            seconds = now - began
            is_moving = seconds > 0 and last > first
            eta = (self.num_steps - last) * seconds / (last - first) if is_moving else None
            return {
                "percent": round(100 * self.step / self.num_steps, 2),
                "etaSeconds": None if eta is None else round(eta, 1),
                "step": self.step,
                "numSteps": self.num_steps,
                "epoch": round(self.epoch, 4),
                "loss": self.loss,
                "evalLoss": self.eval_loss,
                "learningRate": self.learning_rate,
                "tokensPerSecond": round((tokens_now - tokens_then) / seconds, 1) if is_moving else None,
                "paddingShare": round(1 - self.num_tokens / self.num_padded, 4) if self.num_padded else None,
            }


METRICS = {
    "percent": ("refrain_train_progress_percent", "Share of the steps that are done, in percent."),
    "etaSeconds": ("refrain_train_eta_seconds", "Seconds until the last step, at the present speed."),
    "step": ("refrain_train_step", "Steps that are done."),
    "numSteps": ("refrain_train_steps", "Steps in all."),
    "epoch": ("refrain_train_epoch", "Epochs that are done."),
    "loss": ("refrain_train_loss_nats", "Loss per target token of the last step."),
    "evalLoss": ("refrain_train_eval_loss_nats", "Loss per target token of the val set."),
    "learningRate": ("refrain_train_learning_rate", "Learning rate of the last step."),
    "tokensPerSecond": ("refrain_train_tokens_per_second", "Tokens read per second, padding not counted."),
    "paddingShare": ("refrain_train_padding_share", "Share of padding in what was read, from 0 to 1."),
}
"""Fields of `/progress`, each with its metric and what that means. All are gauges."""


def as_metrics(said: Json) -> str:
    """The same for Prometheus, in its text format; what is not known is left out."""
    lines = []
    for name, value in said.items():
        if value is not None:
            metric, text = METRICS[name]
            lines += [f"# HELP {metric} {text}", f"# TYPE {metric} gauge", f"{metric} {value}"]
    return "\n".join(lines) + "\n"


@contextmanager
def served(progress: Progress, port: int | None) -> Iterator[int | None]:
    """`/progress`, `/metrics` and `/healthz` on all addresses, as long as the block; the port, None without one.

    Port 0 takes any that is free. ConfigError where it cannot be listened on.
    """
    if port is None:
        yield None
        return
    try:
        server = ThreadingHTTPServer(("", port), _handler(progress))
    except OSError as error:
        raise ConfigError(f"cannot listen on port {port}: {error.strerror}", where="--progress-port") from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="progress", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(progress: Progress) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/progress":
                self._answer(200, orjson.dumps(progress.as_json()), "application/json")
            elif self.path == "/metrics":
                self._answer(200, as_metrics(progress.as_json()).encode(), "text/plain; version=0.0.4; charset=utf-8")
            elif self.path == "/healthz":
                self._answer(200, b"ok\n", "text/plain")
            else:
                self._answer(404, b"there are /progress, /metrics and /healthz\n", "text/plain")

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: Any) -> None:
            """Nothing: whoever asks knows."""

    return Handler


class ProgressBar:
    """The same on a terminal, as long as a block."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar = bar("train", unit="step", total=progress.num_steps)

    def __enter__(self) -> Self:
        if not self._bar.disable:
            self._progress.watch = self._update
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.watch = None
        self._bar.close()

    def _update(self) -> None:
        said = self._progress.as_json()
        shown = {"loss": said["loss"], "lr": said["learningRate"], "val": said["evalLoss"]}
        texts = {name: f"{value:.3g}" for name, value in shown.items() if value is not None}
        if said["tokensPerSecond"] is not None:
            texts["tokens/s"] = f"{said['tokensPerSecond']:,.0f}"
        if said["paddingShare"] is not None:
            texts["padding"] = f"{said['paddingShare']:.0%}"
        self._bar.set_postfix(texts, refresh=False)
        scoring = self._progress.scoring
        self._bar.set_description(f"train, {scoring}" if scoring else "train", refresh=False)
        num_steps = said["step"] - self._bar.n
        self._bar.update(num_steps)
        if not num_steps:
            self._bar.refresh()
