"""A model that vLLM serves beside this process, in place of one that is loaded here: the same calls, over HTTP.

Retrieval, prompts, keys and adapters' digests stay this process's. vLLM is given tokens, and gives tokens back
(`return_token_ids`, from vLLM 0.10.2 on), so that no text goes through two tokenizers. Which adapter it serves it is
told at its start, by the file that `refrain vllm` writes, under a name that no other adapter will ever have.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import urllib3

from jobs.contracts.errors import ConfigError, RefrainError, TransientError
from jobs.contracts.records import Json
from jobs.ml.adapter_files import adapter_digest
from jobs.ml.base_model import Base, load_encoder
from jobs.serving.event_stream import events
from jobs.serving.wanted import versioned_name

if TYPE_CHECKING:
    from jobs.ml.decoding import Sampling

logger = logging.getLogger("refrain.serve")

BARE_NAME = "base"
"""What vLLM calls the bare base model."""
_START_SECONDS = 3600
_RETRY_SECONDS = 2
_TIMEOUT = urllib3.Timeout(connect=5, read=300)


@dataclass(slots=True, weakref_slot=True)
class Streamed:
    """A text that grows at vLLM: its tokens as they come. It ends there too when nobody holds this any more."""

    tokens: queue.SimpleQueue[int | RefrainError | None]


class VllmDecoder:
    """As `jobs.ml.decoding.Decoder`, which says what its methods do."""

    is_elsewhere = True

    def __init__(self, base: Base, url: str, *, seconds: float = _START_SECONDS) -> None:
        """Wait until vLLM answers; TransientError where it does not in that time, ConfigError where it is no vLLM."""
        self.base = base
        self.encoder = load_encoder(base)
        self._url = url.rstrip("/").removesuffix("/v1")
        self._pool = urllib3.PoolManager(maxsize=256, timeout=_TIMEOUT, retries=False)
        lengths = self._wait_for_models(seconds)
        self._names = lengths.keys()
        self.num_positions: int | None = next((one for one in lengths.values() if one), None)

    def load(self, folder: Path | None) -> Any:
        """The adapter's name at vLLM; ConfigError where vLLM was not started with it."""
        name = BARE_NAME if folder is None else versioned_name(adapter_digest(folder))
        if name not in self._names:
            raise ConfigError(
                f"vLLM serves {', '.join(sorted(self._names))}, not {name}",
                where=self._url,
                hint="start it with the file that `refrain vllm` writes; it takes no other adapter while it runs",
            )
        return name

    def begin(self, prompt: Sequence[int], adapter: Any, sampling: Sampling) -> Any:
        """Have vLLM begin."""
        streamed, is_left = Streamed(queue.SimpleQueue()), threading.Event()
        weakref.finalize(streamed, is_left.set)
        body = self._request(prompt, adapter, sampling)
        threading.Thread(target=self._read, args=(body, streamed.tokens, is_left), daemon=True).start()
        return streamed

    def step(self, growing: Any) -> int | None:
        """The next token; None where it is not there yet. TransientError where vLLM is lost, or refuses."""
        try:
            token = growing.tokens.get_nowait()
        except queue.Empty:
            return None
        if isinstance(token, RefrainError):
            raise token
        return self.encoder.stop_ids[0] if token is None else int(token)

    def _request(self, prompt: Sequence[int], adapter: str, sampling: Sampling) -> Json:
        room = {} if self.num_positions is None else {"max_tokens": max(1, self.num_positions - len(prompt))}
        seed = {} if sampling.seed is None else {"seed": sampling.seed}
        said = {"model": adapter, "prompt": list(prompt), "stream": True, "return_token_ids": True}
        return said | {"temperature": sampling.temperature, "top_p": sampling.top_p} | room | seed

    def _read(self, body: Json, tokens: queue.SimpleQueue[int | RefrainError | None], is_left: threading.Event) -> None:
        """In a thread of its own: all tokens, then None, or what went wrong. Leaving ends the text at vLLM."""
        try:
            with self._pool.request("POST", f"{self._url}/v1/completions", json=body, preload_content=False) as answer:
                if answer.status != 200:
                    words = answer.read(500).decode(errors="replace")
                    raise TransientError(f"vLLM refuses: HTTP {answer.status}: {words}")
                for event in events(answer.stream(amt=None)):
                    if "error" in event:
                        raise TransientError(f"vLLM: {event['error']}")
                    if is_left.is_set():
                        return
                    for token in _tokens_of(event["choices"][0]):
                        tokens.put(token)
            tokens.put(None)
        except RefrainError as error:
            tokens.put(error)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            tokens.put(TransientError(f"vLLM: {type(error).__name__}: {error}", where=self._url))

    def _wait_for_models(self, seconds: float) -> dict[str, int | None]:
        """How many tokens each of its models reads, by name."""
        end = time.monotonic() + seconds
        logger.info("waiting for vLLM at %s", self._url)
        while True:
            try:
                answer = self._pool.request("GET", f"{self._url}/v1/models")
                if answer.status < 500:
                    return _models_in(answer.status, answer.data, self._url)
                problem = f"HTTP {answer.status}"
            except (urllib3.exceptions.HTTPError, OSError) as error:
                problem = str(error)
            if time.monotonic() > end:
                raise TransientError(f"vLLM does not answer: {problem}", where=self._url)
            time.sleep(_RETRY_SECONDS)


def _models_in(status: int, data: bytes, url: str) -> dict[str, int | None]:
    try:
        return {str(one["id"]): one.get("max_model_len") for one in orjson.loads(data)["data"]}
    except (ValueError, LookupError, TypeError) as error:
        what = f"GET /v1/models lists no models: HTTP {status}"
        raise ConfigError(what, where=url, hint="name the address of a vLLM") from error


def _tokens_of(choice: Json) -> list[int]:
    """The tokens of one event. A text without them would look as if the model had said nothing."""
    ids = choice.get("token_ids")
    if ids is None and choice.get("text"):
        raise ConfigError("vLLM gives texts without their tokens", hint="it has to be of version 0.10.2 or newer")
    return [int(one) for one in ids or ()]
