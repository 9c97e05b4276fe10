"""Talking to the pods of the inference Deployment, by their own addresses: the Service may still reach an old one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import urllib3

from controller.objects import Json
from controller.observed import Answer, Swapped
from controller.settings import InferenceSettings
from jobs.contracts.secret_lines import secrets_in

_CONNECT_SECONDS = 3
_SWAP_SECONDS = 60
_pool = urllib3.PoolManager(num_pools=16)
_MOST_TOKENS = 16
_COME_BACK = (401, 403, 408, 425, 429)
"""Refusals that may end by themselves, as those from 500 on: a changed token takes a while to get everywhere."""


def ask(pod: Json, settings: InferenceSettings, seconds: float) -> Answer:
    """Ask a pod a question, with the token where there is one: clients' keys are not ours. Never raises."""
    question = {
        "model": "refrain",
        "messages": [{"role": "user", "content": settings.question}],
        "max_tokens": _MOST_TOKENS,
    }
    try:
        said = _post(pod, settings, "/v1/chat/completions", question, seconds)
        text = str(said["choices"][0]["message"]["content"])
        adapter = str(said["refrain"]["adapter"])
    except (urllib3.exceptions.HTTPError, OSError, ValueError, LookupError, TypeError) as error:
        return Answer("", "", f"{type(error).__name__}: {error}")
    # An empty one counts: the end of the text may be what a model has to say to this question.
    return Answer(adapter, text, "")


class _RefusedError(ValueError):
    """An answer other than 200."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"HTTP {status}: {words}")
        self.status = status


def swap(pod: Json, adapter: str, settings: InferenceSettings) -> Swapped:
    """Tell a pod to load an adapter, `key@digest`. Never raises."""
    key, _, digest = adapter.rpartition("@")
    try:
        _post(pod, settings, "/v1/adapter", {"adapter": key or None, "sha256": digest}, _SWAP_SECONDS)
    except _RefusedError as error:
        return Swapped(str(error), is_final=400 <= error.status < 500 and error.status not in _COME_BACK)
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        return Swapped(f"{type(error).__name__}: {error}")
    return Swapped()


def _token(path: Path | None) -> dict[str, str]:
    """The first of the file's tokens; ValueError where there is none.

    What is raised gets into the cycle's status, and must not hold it.
    """
    if path is None:
        return {}
    token = next(iter(secrets_in(path.read_text())), "")
    if not token or not token.isascii() or not token.isprintable():
        raise ValueError(f"{path} holds no token that a header can hold")
    return {"Authorization": f"Bearer {token}"}


def _post(pod: Json, settings: InferenceSettings, path: str, body: Json, seconds: float) -> Any:
    address = (pod.get("status") or {}).get("podIP") or ""
    host = f"[{address}]" if ":" in address else address
    answer = _pool.request(
        "POST",
        f"http://{host}:{settings.port}{path}",
        body=orjson.dumps(body),
        headers={"Content-Type": "application/json"} | _token(settings.token_file),
        timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=seconds),
        retries=False,
    )
    if answer.status != 200:
        raise _RefusedError(answer.status, answer.data[:200].decode(errors="replace"))
    return orjson.loads(answer.data)
