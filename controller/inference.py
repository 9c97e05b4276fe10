"""Talking to the pods of the inference Deployment, by their own addresses: the Service may still reach an old one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import urllib3

from controller.objects import Json
from controller.observed import Answer
from controller.settings import InferenceSettings

_TIMEOUT = urllib3.Timeout(connect=3, read=60)
_pool = urllib3.PoolManager(num_pools=16)
_MOST_TOKENS = 16


def ask(pod: Json, settings: InferenceSettings) -> Answer:
    """Ask a pod a question, with the token where there is one: clients' keys are not ours. Never raises."""
    question = {
        "model": "refrain",
        "messages": [{"role": "user", "content": settings.question}],
        "max_tokens": _MOST_TOKENS,
    }
    try:
        said = _post(pod, settings, "/v1/chat/completions", question, _token(settings.token_file))
        text = str(said["choices"][0]["message"]["content"])
        adapter = str(said["refrain"]["adapter"])
    except (urllib3.exceptions.HTTPError, OSError, ValueError, LookupError, TypeError) as error:
        return Answer("", "", f"{type(error).__name__}: {error}")
    # An empty one counts: the end of the text may be what a model has to say to this question.
    return Answer(adapter, text, "")


def swap(pod: Json, adapter: str, settings: InferenceSettings) -> str:
    """Tell a pod to load an adapter, `key@digest`; empty where it has, else why not."""
    key, _, digest = adapter.rpartition("@")
    try:
        _post(pod, settings, "/v1/adapter", {"adapter": key or None, "sha256": digest}, _token(settings.token_file))
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _token(path: Path | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {path.read_text().strip()}"} if path else {}


def _post(pod: Json, settings: InferenceSettings, path: str, body: Json, headers: dict[str, str] | None = None) -> Any:
    address = (pod.get("status") or {}).get("podIP") or ""
    host = f"[{address}]" if ":" in address else address
    answer = _pool.request(
        "POST",
        f"http://{host}:{settings.port}{path}",
        body=orjson.dumps(body),
        headers={"Content-Type": "application/json"} | (headers or {}),
        timeout=_TIMEOUT,
        retries=False,
    )
    if answer.status != 200:
        raise ValueError(f"HTTP {answer.status}: {answer.data[:200].decode(errors='replace')}")
    return orjson.loads(answer.data)
