"""OpenAI's requests, answers and errors as values: nothing here knows of HTTP servers or of models.

What it takes and gives is a subset of https://platform.openai.com/docs/api-reference (chat, completions, models).
A field that would change the answer and that this server does not know how to follow is refused; others are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from jobs.contracts.errors import InputError
from jobs.contracts.records import Json
from jobs.retrieval.query import Mode
from jobs.serving.prompting import Turn

MAX_SOURCES = 50
_MAX_STOPS = 16
_MAX_STOP_CHARS = 256
_MAX_TURNS = 1000
_MAX_PROMPTS = 16
_DATE = r"^$|^\d{4}(-\d\d(-\d\d(T\d\d:\d\d(:\d\d(Z)?)?)?)?)?$"

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "suffix": ("",),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
}
"""Fields that may only be as if they were not there: null, or one of these."""


class RequestError(InputError):
    """A request that is refused, as OpenAI's clients are told."""

    def __init__(
        self, what: str, *, status: int = 400, code: str = "invalid_value", param: str | None = None, retry: int = 0
    ) -> None:
        super().__init__(what)
        self.status = status
        self.code = code
        self.param = param
        self.retry_seconds = retry
        """When to try again; 0: it would be refused again."""

    @property
    def body(self) -> Json:
        """As OpenAI shapes errors."""
        return error_body(self.what, _kind(self.status), self.code, self.param)


def _kind(status: int) -> str:
    known = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    return known.get(status, "invalid_request_error" if status < 500 else "server_error")


def error_body(message: str, kind: str, code: str, param: str | None = None) -> Json:
    """An error in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


_Kind = TypeVar("_Kind", bound=BaseModel)


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Text(_Model):
    type: Literal["text"]
    text: str


class Message(_Model):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Text]

    @property
    def text(self) -> str:
        """Its parts joined."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class Extras(BaseModel):
    """What this server knows besides: `extra_body={"refrain": {…}}` in OpenAI's client."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    before: Annotated[str, Field(pattern=_DATE)] = ""
    """Draw on mail earlier than this alone: 2024-05-31, 2024-05 …"""
    top_k: Annotated[int, Field(ge=0, le=MAX_SOURCES)] = 5
    """Passages to draw on; 0: answer from memory."""
    search: Mode = "hybrid"
    persona: Annotated[str, Field(max_length=300)] = ""
    """Who answers; empty: who wrote the best source."""


class _StreamOptions(_Model):
    include_usage: bool = False


class _Request(_Model):
    """What both kinds of requests have."""

    model: Annotated[str, Field(max_length=300)] = "refrain"
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    stop: str | Annotated[list[str], Field(max_length=_MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_cannot_be_followed(cls, value: Any) -> Any:
        for name, neutral in _NEUTRAL.items() if isinstance(value, dict) else ():
            if value.get(name) is not None and value[name] not in neutral:
                raise RequestError(f"{name} is not supported", code="unsupported_parameter", param=name)
        return value

    @model_validator(mode="after")
    def _stops_are_short(self) -> Self:
        if any(len(stop) > _MAX_STOP_CHARS for stop in self.stops):
            raise RequestError(f"stop: {_MAX_STOP_CHARS} characters each at most", param="stop")
        return self

    @property
    def stops(self) -> list[str]:
        """Texts that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with a chunk of counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(_Request):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=_MAX_TURNS)]
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    refrain: Extras = Extras()

    @model_validator(mode="after")
    def _has_a_question(self) -> Self:
        if self.messages[-1].role != "user" or not self.messages[-1].text.strip():
            raise RequestError("the last message has to be a user's, and not empty", param="messages")
        return self

    @property
    def limit(self) -> int | None:
        """How long the answer may be, in tokens."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def question(self) -> str:
        """What is asked."""
        return self.messages[-1].text

    @property
    def history(self) -> tuple[Turn, ...]:
        """What was said before."""
        turns = (Turn("system" if one.role == "developer" else one.role, one.text) for one in self.messages[:-1])
        return tuple(turns)


class CompletionRequest(_Request):
    """`POST /v1/completions`: texts that go on just as they stand, without sources."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=_MAX_PROMPTS)]

    @property
    def limit(self) -> int | None:
        """How long each text may be, in tokens."""
        return self.max_tokens

    @property
    def prompts(self) -> list[str]:
        """The texts."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class AdapterRequest(BaseModel):
    """`POST /v1/adapter`: what is to be in service; null and an empty digest for the bare base model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    adapter: Annotated[str, Field(max_length=1000)] | None
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]


def parse(kind: type[_Kind], data: bytes) -> _Kind:
    """A request's body; RequestError names the field that is wrong."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        code = "invalid_json" if first["type"] == "json_invalid" else "invalid_value"
        raise RequestError(
            f"{place}: {first['msg']}" if place else first["msg"], code=code, param=place or None
        ) from error


@dataclass(frozen=True, slots=True)
class Head:
    """What all chunks of one answer have in common."""

    ident: str
    created: int
    """Seconds since 1970."""
    model: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens."""

    prompt: int
    completion: int

    @property
    def body(self) -> Json:
        """As OpenAI shapes it."""
        total = self.prompt + self.completion
        return {"prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": total}


def chat_completion(head: Head, text: str, reason: str, usage: Usage, refrain: Json) -> Json:
    """A whole answer."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    return _body(head, "chat.completion", [choice]) | {"usage": usage.body, "refrain": refrain}


def chat_chunk(head: Head, delta: Json, reason: str | None = None) -> Json:
    """A piece of an answer; the first one says who speaks, the last one why it ends."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return _body(head, "chat.completion.chunk", [choice])


def text_completion(head: Head, texts: Sequence[tuple[str, str]], usage: Usage, refrain: Json) -> Json:
    """Whole texts, each with why it ends."""
    choices = [text_choice(index, text, reason) for index, (text, reason) in enumerate(texts)]
    return _body(head, "text_completion", choices) | {"usage": usage.body, "refrain": refrain}


def text_chunk(head: Head, index: int, text: str, reason: str | None = None) -> Json:
    """A piece of a text."""
    return _body(head, "text_completion", [text_choice(index, text, reason)])


def text_choice(index: int, text: str, reason: str | None) -> Json:
    """One of several texts."""
    return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}


def usage_chunk(head: Head, kind: str, usage: Usage) -> Json:
    """The counts at the end of a stream."""
    return _body(head, kind, []) | {"usage": usage.body}


def _body(head: Head, kind: str, choices: list[Json]) -> Json:
    return {"id": head.ident, "object": kind, "created": head.created, "model": head.model, "choices": choices}


def model_list(names: Mapping[str, str], created: int) -> Json:
    """The models by name, each with its adapter's digest."""
    models = [
        {"id": name, "object": "model", "created": created, "owned_by": "refrain", "adapter": digest}
        for name, digest in names.items()
    ]
    return {"object": "list", "data": models}
