"""What the HTTP server's routes stand on: the assistant, and whether it may be asked yet, and still."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from jobs.contracts.errors import InputError, RefrainError, TransientError
from jobs.serving.api import RequestError
from jobs.serving.assistant import Assistant, Version
from jobs.serving.engine import as_told
from jobs.serving.gate import Gate, Keys, Limits
from jobs.serving.metrics import Metrics
from jobs.serving.prompting import Asked, NoRoomError, Prompt
from jobs.serving.wanted import InStore

logger = logging.getLogger("refrain.serve")

_Made = TypeVar("_Made")
DEFAULT_QUESTION = "Who are you, and what are you working on?"
_LOADING_RETRY_SECONDS = 5
_STUCK_SECONDS = 300.0
"""A step of the model that takes longer will not come back."""
_MOST_FAILURES = 5
"""Answers that fail one after another, with none between that goes well: the model is broken."""


@dataclass(slots=True)
class Service:
    """One server's state. Its methods are called in the event loop unless they say otherwise."""

    assistant: Assistant
    limits: Limits
    keys: Keys
    metrics: Metrics = field(default_factory=Metrics)
    question: str = DEFAULT_QUESTION
    """What an adapter has to answer before it is in service."""
    is_open: bool = False
    """It has answered that question."""
    is_draining: bool = False
    """It has been told to stop."""
    num_failures: int = 0
    """Clients' answers that the model has failed since the last that went well."""
    gate: Gate = field(init=False)
    _searches: ThreadPoolExecutor = field(init=False)
    _told: str | None = None

    def __post_init__(self) -> None:
        self.gate = Gate(self.limits)
        self._searches = ThreadPoolExecutor(1, "search")
        self.metrics.watch("requests_inside", lambda: self.gate.num_requests)
        self.metrics.watch("ready", lambda: float(self.is_ready))

    def open(self) -> None:
        """Load all, and have it answer a question. In a thread of its own; raises what is wrong."""
        assistant = self.assistant
        logger.info("loading the index")
        knowledge = assistant.open_knowledge()
        logger.info("loading base model and adapter")
        if assistant.open_model() is None:
            raise InputError("there is no base model to serve", hint="name it: --base")
        for note in (*knowledge.notes, *assistant.notes):
            logger.info("%s", note)
        logger.info("asking the first question")
        try:
            assistant.probe(self.question)
        except NoRoomError as error:
            raise InputError(error.what, where="--question", hint="ask for less") from error
        self.metrics.watch("answers_active", lambda: assistant.engine.num_active)
        self.metrics.watch("answers_waiting", lambda: assistant.engine.num_waiting)
        self.metrics.watch("index_passages", lambda: knowledge.num_passages)
        self._tell_version()
        self.is_open = True

    @property
    def is_ready(self) -> bool:
        """Whether it should be asked: it has answered with what is in service, still does, and was not told to stop."""
        return self.is_open and self.is_alive and not self.is_draining

    @property
    def is_alive(self) -> bool:
        """Whether a restart would not help."""
        is_stuck = self.is_open and self.assistant.engine.seconds_stuck() >= _STUCK_SECONDS
        return not is_stuck and self.num_failures < _MOST_FAILURES

    def require_open(self) -> None:
        """RequestError while it loads."""
        if not self.is_open:
            raise RequestError("the model is being loaded", status=503, code="loading", retry=_LOADING_RETRY_SECONDS)

    def version(self, model: str) -> Version:
        """The version that a request names; RequestError for one that is not here (any more)."""
        self.require_open()
        found = self.assistant.named(model)
        if found is None:
            raise RequestError(
                f"there is no model {model!r} here: see /v1/models", status=404, code="model_not_found", param="model"
            )
        return found

    async def prompt(self, asked: Asked) -> Prompt:
        """Search, and make the prompt; RequestError where the question is too long."""
        try:
            return await self.apart(partial(self._prompt, asked))
        except NoRoomError as error:
            raise RequestError(error.what, code="context_length_exceeded", param="messages") from error
        except RefrainError as error:
            logger.error("a search failed: %s", error)
            raise RequestError("the search for mail failed", status=500, code="search_failed") from error

    async def apart(self, work: Callable[[], _Made]) -> _Made:
        """Search or tokenise in a thread of its own, so that streams go on meanwhile."""
        return await asyncio.wrap_future(self._searches.submit(work))

    def _prompt(self, asked: Asked) -> Prompt:
        with self.metrics.search.time():
            return self.assistant.prompt(asked, most_tokens=self.limits.max_prompt_tokens)

    def swap(self, target: InStore) -> bool:
        """See `Assistant.swap`; in a thread of its own. TransientError where memory or the disk is full."""
        try:
            is_new = self.assistant.swap(target, self.question)
        except Exception as error:
            self.metrics.swaps.labels("failed").inc()
            told = as_told(error)
            if told is not error and isinstance(told, TransientError):
                raise told from error
            raise
        self.metrics.swaps.labels("done" if is_new else "already").inc()
        self._tell_version()
        return is_new

    def refresh(self) -> None:
        """Look for a newer index, erased mail and a newer production record; in a thread of its own. Raises nothing."""
        for look in (self.assistant.knowledge.refresh, lambda: self.assistant.follow(self.question)):
            try:
                outcome = "changed" if look() else "same"
            except Exception as error:  # whatever it is, there is a next look
                outcome = "failed"
                is_told = isinstance(error, RefrainError)
                logger.warning("what is there stays: %s", as_told(error), exc_info=None if is_told else error)
            self.metrics.refreshes.labels(outcome).inc()
        self._tell_version()

    def _tell_version(self) -> None:
        version = self.assistant.version
        if version.digest == self._told:
            return
        self._told = version.digest
        self.num_failures = 0
        self.metrics.in_service(version.digest, version.name)
        logger.info("in service: %s (%s)", version.name, version.digest or "no adapter")
