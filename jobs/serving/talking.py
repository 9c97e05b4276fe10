"""A conversation, with the engine in this process or with a server's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import orjson
import urllib3

from jobs.contracts.errors import AccessError, InputError, RefrainError, TransientError
from jobs.contracts.records import Json
from jobs.serving.assistant import Assistant
from jobs.serving.engine import Piece
from jobs.serving.event_stream import events
from jobs.serving.prompting import Asked, Turn, sources_body
from jobs.serving.wanted import Wanted

_TIMEOUT = urllib3.Timeout(connect=10, read=300)


@dataclass(frozen=True, slots=True)
class Way:
    """How each question is to be answered."""

    top_k: int = 5
    persona: str = ""
    max_new_tokens: int = 256


@dataclass
class Talk(ABC):
    """A conversation: what was said so far, and the sources of the last answer."""

    way: Way
    turns: list[Turn] = field(default_factory=list)
    sources: list[Json] = field(default_factory=list)
    """Of the last answer, the best first."""

    def begin_anew(self) -> None:
        """Forget what was said."""
        self.turns.clear()
        self.sources = []

    def say(self, text: str) -> Iterator[str]:
        """Ask something, and hear the answer piece by piece. What breaks off counts as not asked."""
        pieces = []
        for piece in self._answer(text):
            pieces.append(piece)
            yield piece
        self.turns += [Turn("user", text), Turn("assistant", "".join(pieces))]

    @abstractmethod
    def _answer(self, text: str) -> Iterator[str]:
        """The pieces; `sources` are set on the way."""


class LocalTalk(Talk):
    """With base model, adapter and index loaded here. To be used in a `with` block."""

    def __init__(self, wanted: Wanted, way: Way) -> None:
        super().__init__(way)
        self._assistant = Assistant(wanted, max_active=1)
        self.notes: list[str] = []

    def __enter__(self) -> Self:
        assistant = self._assistant.__enter__()
        try:
            knowledge = assistant.open_knowledge()
            if assistant.open_model() is None:
                raise InputError("there is no base model to talk with", hint="name it: --base")
        except BaseException:
            assistant.__exit__()
            raise
        self.notes = knowledge.notes + assistant.notes
        return self

    def __exit__(self, *error: object) -> None:
        self._assistant.__exit__(*error)

    def _answer(self, text: str) -> Iterator[str]:
        way = self.way
        asked = Asked(
            text,
            top_k=way.top_k,
            persona=way.persona,
            max_new_tokens=way.max_new_tokens,
            history=tuple(self.turns),
        )
        prompt = self._assistant.prompt(asked)
        self.sources = sources_body(prompt.sources)
        for event in self._assistant.events(prompt.ids, self._assistant.version, max_new_tokens=way.max_new_tokens):
            if isinstance(event, Piece):
                yield event.text


class RemoteTalk(Talk):
    """With a server, `http://host:8000`."""

    def __init__(self, url: str, api_key: str | None, way: Way) -> None:
        super().__init__(way)
        self._url = f"{url.rstrip('/').removesuffix('/v1')}/v1/chat/completions"
        self._headers = {"Content-Type": "application/json"}
        self._headers |= {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._pool = urllib3.PoolManager()

    def _answer(self, text: str) -> Iterator[str]:
        turns = [*self.turns, Turn("user", text)]
        body = {
            "model": "refrain",
            "messages": [{"role": turn.role, "content": turn.text} for turn in turns],
            "max_tokens": self.way.max_new_tokens,
            "stream": True,
            "refrain": {"top_k": self.way.top_k, "persona": self.way.persona},
        }
        try:
            yield from self._pieces(body)
        except urllib3.exceptions.HTTPError as error:
            raise TransientError(f"the server does not answer: {error}", where=self._url) from error
        except (ValueError, LookupError, TypeError) as error:
            what = "what answers here does not speak OpenAI's API"
            raise InputError(what, where=self._url, hint="name a refrain serve: http://host:8000") from error

    def _pieces(self, body: Json) -> Iterator[str]:
        answer = self._pool.request(
            "POST",
            self._url,
            body=orjson.dumps(body),
            headers=self._headers,
            timeout=_TIMEOUT,
            retries=False,
            preload_content=False,
        )
        if answer.status != 200:
            raise _refused(answer.status, answer.read(), self._url)
        for chunk in events(answer.stream(65_536)):
            if "error" in chunk:
                raise TransientError(str(chunk["error"]["message"]), where=self._url)
            self.sources = chunk.get("refrain", {}).get("sources", self.sources)
            for choice in chunk["choices"]:
                yield choice["delta"].get("content") or ""


def _refused(status: int, data: bytes, where: str) -> RefrainError:
    try:
        message = str(orjson.loads(data)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        message = f"HTTP {status}"
    if status in (401, 403):
        return AccessError(message, where=where, hint="name a key: --api-key, or REFRAIN_API_KEY")
    return (TransientError if status == 429 or status >= 500 else InputError)(message, where=where)
