"""Harms that the proxy in front of the API server can do to a write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.api_proxy import failure

if TYPE_CHECKING:
    from cluster.api_proxy import ApiAnswer, ApiProxy, ApiRequest, Harm


def kill_before(proxy: ApiProxy, request: ApiRequest) -> None:
    """The writer dies, its request is never carried out."""
    proxy.kill()


def kill_after(proxy: ApiProxy, request: ApiRequest) -> None:
    """The request is carried out, then the writer dies."""
    proxy.forward(request)
    proxy.kill()


def lose_request(proxy: ApiProxy, request: ApiRequest) -> None:
    """The request is not carried out, and the connection breaks."""


def lose_answer(proxy: ApiProxy, request: ApiRequest) -> None:
    """The request is carried out, and the connection breaks."""
    proxy.forward(request)


def time_out(proxy: ApiProxy, request: ApiRequest) -> None:
    """The request is not carried out, and there is no answer for ten minutes."""
    proxy.wait(600)


def time_out_after_commit(proxy: ApiProxy, request: ApiRequest) -> None:
    """The request is carried out, and there is no answer for ten minutes."""
    proxy.forward(request)
    proxy.wait(600)


def delay(seconds: float) -> Harm:
    """The request is carried out later."""

    def harm(proxy: ApiProxy, request: ApiRequest) -> ApiAnswer | None:
        proxy.wait(seconds)
        return proxy.forward(request)

    return harm


def answer(code: int, reason: str = "", retry_seconds: int = 1) -> Harm:
    """An error is answered, the request is not carried out."""
    return lambda proxy, request: failure(code, reason, retry_seconds=retry_seconds)


def answer_after_commit(code: int, reason: str = "") -> Harm:
    """The request is carried out, and an error is answered."""

    def harm(proxy: ApiProxy, request: ApiRequest) -> ApiAnswer:
        proxy.forward(request)
        return failure(code, reason)

    return harm
