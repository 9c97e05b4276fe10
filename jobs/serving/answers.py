"""Answers to OpenAI's requests, whole or piece by piece."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import orjson
from starlette.responses import JSONResponse, Response, StreamingResponse

from jobs.contracts.records import Json
from jobs.serving import api
from jobs.serving.api import ChatRequest, CompletionRequest, Head, RequestError, Usage
from jobs.serving.assistant import Version
from jobs.serving.engine import Answering, Ended, Event, Failed, Piece
from jobs.serving.prompting import Asked, Prompt, sources_body
from jobs.serving.service import Service
from jobs.serving.visit import GONE, Visit, visit_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from jobs.ml.decoding import Sampling

logger = logging.getLogger("refrain.serve")

_DEFAULT_NEW_TOKENS = 256
_LOOKS_SECONDS = 0.5
"""Between two looks at whether the client is still there."""


class Hearing:
    """What is heard of the answers to one request, in the event loop."""

    def __init__(self, service: Service, began: float) -> None:
        self.num_tokens = 0
        self._service = service
        self._began = began
        self._loop = asyncio.get_running_loop()
        self._heard: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._answerings: list[Answering] = []
        self._uncounted: dict[int, Answering] = {}
        self._is_gone = False

    def begin(self, prompt: Prompt, version: Version, request: ChatRequest | CompletionRequest, limit: int) -> None:
        """Begin one more answer, which is heard under its number."""
        number = len(self._answerings)
        left = self._service.limits.request_seconds - (time.monotonic() - self._began)
        answering = self._service.assistant.begin(
            prompt.ids,
            version,
            sampling_of(request),
            max_new_tokens=limit,
            tell=partial(self._tell, number),
            stops=request.stops,
            is_mail=isinstance(request, ChatRequest),
            seconds=left,
        )
        self._answerings.append(answering)
        self._uncounted[number] = answering

    def _tell(self, number: int, event: Event) -> None:
        """In the engine's thread. Where the loop is closed, nobody listens any more."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._heard.put_nowait, (number, event))

    def close(self) -> None:
        """Nobody waits for them any more; those that have not ended are counted as they are."""
        self._cancel()
        for number in list(self._uncounted):
            self._count(number, "cancelled")

    def _cancel(self) -> None:
        for answering in self._answerings:
            answering.cancel()

    def _count(self, number: int, reason: str) -> None:
        metrics, answering = self._service.metrics, self._uncounted.pop(number)
        metrics.answers.labels(reason).inc()
        metrics.tokens.labels("completion").inc(len(answering.tokens))
        if reason in ("stop", "length"):
            self._service.num_failures = 0
        elif reason == "failed":
            self._service.num_failures += 1

    async def events(self) -> AsyncIterator[tuple[int, Piece | Ended]]:
        """Pieces and ends of all of them; RequestError where one fails or runs out of time."""
        is_first = True
        try:
            while self._uncounted:
                number, event = await self._heard.get()
                if is_first:
                    self._service.metrics.first_token.observe(time.monotonic() - self._began)
                    is_first = False
                if isinstance(event, Ended):
                    self.num_tokens += event.num_tokens
                if not isinstance(event, Piece):
                    self._count(number, event.reason if isinstance(event, Ended) else "failed")
                yield number, _checked(event, is_gone=self._is_gone)
        finally:
            self.close()

    async def cancel_when_gone(self, connection: Request) -> None:
        """Cancel as soon as the client has hung up."""
        while not await connection.is_disconnected():
            await asyncio.sleep(_LOOKS_SECONDS)
        self._is_gone = True
        self._cancel()


def sampling_of(request: ChatRequest | CompletionRequest) -> Sampling:
    """How tokens are chosen: the most likely ones where nothing is said."""
    from jobs.ml.decoding import Sampling

    return Sampling(request.temperature or 0.0, 1.0 if request.top_p is None else request.top_p, request.seed)


def _checked(event: Event, *, is_gone: bool) -> Piece | Ended:
    if isinstance(event, Failed):
        logger.error("an answer failed: %s", event.error)
        raise RequestError("the model failed", status=500, code="model_failed")
    if isinstance(event, Ended) and event.reason == "time":
        raise RequestError("the answer took too long", status=504, code="timeout")
    if isinstance(event, Ended) and event.reason == "cancelled":
        status = GONE if is_gone else 503
        raise RequestError("nobody waits for this answer any more", status=status, code="cancelled")
    return event


@dataclass(slots=True)
class _Answer:
    """One request on its way."""

    request: ChatRequest | CompletionRequest
    head: Head
    hearing: Hearing
    num_prompt_tokens: int
    refrain: Json

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(self.num_prompt_tokens, self.hearing.num_tokens)


async def chat(service: Service, request: ChatRequest, connection: Request) -> Response:
    """`POST /v1/chat/completions`."""
    began, version = time.monotonic(), service.version(request.model)
    limit, more = _limit(service, request), request.refrain
    asked = Asked(
        request.question,
        before=more.before,
        top_k=more.top_k,
        mode=more.search,
        persona=more.persona,
        max_new_tokens=limit,
        history=request.history,
    )
    prompt = await service.prompt(asked)
    answer = _begin(service, request, version, [prompt], limit=limit, began=began)
    if request.stream:
        return _Stream(answer, _chat_chunks(answer), visit_of(connection))
    ((text, reason),) = await _whole(answer, connection)
    return JSONResponse(api.chat_completion(answer.head, text, reason, answer.usage, answer.refrain))


async def completion(service: Service, request: CompletionRequest, connection: Request) -> Response:
    """`POST /v1/completions`."""
    began, version = time.monotonic(), service.version(request.model)
    limit, most = _limit(service, request), service.gate.most_answers
    if len(request.prompts) > most:
        raise RequestError(f"prompt: {most} texts at most; this server never has room for more", param="prompt")
    visit_of(connection).take(len(request.prompts) - 1)
    prompts = [await service.apart(partial(_plain, service, text, limit)) for text in request.prompts]
    answer = _begin(service, request, version, prompts, limit=limit, began=began)
    if request.stream:
        return _Stream(answer, _text_chunks(answer), visit_of(connection))
    texts = await _whole(answer, connection)
    return JSONResponse(api.text_completion(answer.head, texts, answer.usage, answer.refrain))


def _limit(service: Service, request: ChatRequest | CompletionRequest) -> int:
    most = service.limits.max_new_tokens
    limit = request.limit or min(_DEFAULT_NEW_TOKENS, most)
    if limit > most:
        raise RequestError(f"max_tokens: {most} at most", param="max_tokens")
    return limit


def _plain(service: Service, text: str, limit: int) -> Prompt:
    """A text to go on from just as it stands."""
    room = service.assistant.room(limit, service.limits.max_prompt_tokens)
    ids = service.assistant.decoder.encoder.plain(text)
    if room is not None and len(ids) > room:
        what = f"the prompt has {len(ids)} tokens; there is room for {room}"
        raise RequestError(what, code="context_length_exceeded", param="prompt")
    if not ids:
        raise RequestError("the prompt is empty", param="prompt")
    return Prompt(ids)


def _begin(
    service: Service,
    request: ChatRequest | CompletionRequest,
    version: Version,
    prompts: list[Prompt],
    *,
    limit: int,
    began: float,
) -> _Answer:
    hearing = Hearing(service, began)
    for prompt in prompts:
        hearing.begin(prompt, version, request, limit)
    num_tokens = sum(len(prompt.ids) for prompt in prompts)
    service.metrics.tokens.labels("prompt").inc(num_tokens)
    kind = "chatcmpl" if isinstance(request, ChatRequest) else "cmpl"
    head = Head(f"{kind}-{uuid.uuid4().hex}", int(time.time()), version.name)
    refrain: Json = {"adapter": version.digest, "sources": sources_body(prompts[0].sources)}
    notes = [note for prompt in prompts for note in prompt.notes]
    return _Answer(request, head, hearing, num_tokens, refrain | ({"notes": notes} if notes else {}))


async def _whole(answer: _Answer, connection: Request) -> list[tuple[str, str]]:
    """Each text, and why it ends, by number."""
    texts: dict[int, list[str]] = {}
    reasons: dict[int, str] = {}
    watch = asyncio.create_task(answer.hearing.cancel_when_gone(connection))
    try:
        async for number, event in answer.hearing.events():
            if isinstance(event, Piece):
                texts.setdefault(number, []).append(event.text)
            else:
                reasons[number] = event.reason
    finally:
        watch.cancel()
    return [("".join(texts.get(number, ())), reasons[number]) for number in sorted(reasons)]


class _Stream(StreamingResponse):
    """An answer piece by piece. It closes by itself: who hangs up early enough leaves generators that never began."""

    def __init__(self, answer: _Answer, chunks: AsyncIterator[Json], visit: Visit) -> None:
        super().__init__(_lines(chunks, visit), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._hearing = answer.hearing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._hearing.close()


async def _lines(chunks: AsyncIterator[Json], visit: Visit) -> AsyncIterator[bytes]:
    """Server-sent events. An error that comes in the middle is the last of them, and counts as what it is."""
    try:
        async for chunk in chunks:
            yield b"data: %b\n\n" % orjson.dumps(chunk)
    except RequestError as error:
        visit.fail(error.status)
        yield b"data: %b\n\n" % orjson.dumps(error.body)
    else:
        yield b"data: [DONE]\n\n"


async def _chat_chunks(answer: _Answer) -> AsyncIterator[Json]:
    yield api.chat_chunk(answer.head, {"role": "assistant", "content": ""})
    async for _, event in answer.hearing.events():
        if isinstance(event, Piece):
            yield api.chat_chunk(answer.head, {"content": event.text})
        else:
            yield api.chat_chunk(answer.head, {}, event.reason) | {"refrain": answer.refrain}
    if answer.request.includes_usage:
        yield api.usage_chunk(answer.head, "chat.completion.chunk", answer.usage) | {"refrain": answer.refrain}


async def _text_chunks(answer: _Answer) -> AsyncIterator[Json]:
    async for number, event in answer.hearing.events():
        if isinstance(event, Piece):
            yield api.text_chunk(answer.head, number, event.text)
        else:
            yield api.text_chunk(answer.head, number, "", event.reason) | {"refrain": answer.refrain}
    if answer.request.includes_usage:
        yield api.usage_chunk(answer.head, "text_completion", answer.usage) | {"refrain": answer.refrain}
