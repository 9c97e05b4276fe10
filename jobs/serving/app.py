"""The HTTP server's routes, and the door before them: keys, how many at a time, how long, what is counted."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from jobs.contracts.errors import IntegrityError, MissingInputError, OutputError, RefrainError, TransientError
from jobs.serving import answers, api
from jobs.serving.api import AdapterRequest, ChatRequest, CompletionRequest, RequestError
from jobs.serving.service import Service
from jobs.serving.visit import ANSWERING, GONE, OPEN, SWAPPING, Visit
from jobs.serving.wanted import InStore

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger("refrain.serve")

_MORE_SECONDS = 10
"""Beyond a request's own time: for a client that does not read what it is told."""


def build(service: Service) -> ASGIApp:
    """The server as an ASGI application."""
    routes = _Routes(service)
    app = Starlette(
        routes=[
            Route("/livez", routes.alive),
            Route("/readyz", routes.ready),
            Route("/metrics", routes.metrics),
            Route("/v1/models", routes.models),
            Route("/v1/models/{name:path}", routes.model),
            Route("/v1/chat/completions", routes.chat, methods=["POST"]),
            Route("/v1/completions", routes.completion, methods=["POST"]),
            Route("/v1/adapter", routes.adapter, methods=["POST"]),
        ],
        exception_handlers={
            RequestError: _refused,
            HTTPException: _no_route,
            ClientDisconnect: _gone,
            Exception: _defect,
        },
    )
    return _Door(app, service)


class _Routes:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._began = int(time.time())

    async def alive(self, _: Request) -> Response:
        is_alive = self._service.is_alive
        return JSONResponse({"status": "alive" if is_alive else "stuck"}, 200 if is_alive else 503)

    async def ready(self, _: Request) -> Response:
        service = self._service
        if not service.is_ready:
            why = "stopping" if service.is_draining else "stuck" if service.is_open else "loading"
            return JSONResponse({"status": why}, 503)
        version = service.assistant.version
        return JSONResponse({"status": "ready", "adapter": version.digest, "model": version.name})

    async def metrics(self, _: Request) -> Response:
        return Response(self._service.metrics.text(), media_type="text/plain; version=0.0.4")

    async def models(self, _: Request) -> Response:
        return JSONResponse(api.model_list(self._names(), self._began))

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._service.version(name)
        (found,) = api.model_list({name: self._names()[name]}, self._began)["data"]
        return JSONResponse(found)

    def _names(self) -> dict[str, str]:
        self._service.require_open()
        return self._service.assistant.names()

    async def chat(self, request: Request) -> Response:
        self._service.require_open()
        return await answers.chat(self._service, api.parse(ChatRequest, await self._body(request)), request)

    async def completion(self, request: Request) -> Response:
        self._service.require_open()
        return await answers.completion(self._service, api.parse(CompletionRequest, await self._body(request)), request)

    async def adapter(self, request: Request) -> Response:
        self._service.require_open()
        wanted = api.parse(AdapterRequest, await self._body(request))
        try:
            is_new = await asyncio.to_thread(self._service.swap, InStore(wanted.adapter or "", wanted.sha256))
        except RefrainError as error:
            raise _not_swapped(error) from error
        version = self._service.assistant.version
        return JSONResponse({"adapter": version.digest, "model": version.name, "changed": is_new})

    async def _body(self, request: Request) -> bytes:
        """The whole body; RequestError for one that is too large."""
        most, data = self._service.limits.max_body_bytes, bytearray()
        async for piece in request.stream():
            data += piece
            if len(data) > most:
                raise RequestError(f"the request has more than {most} bytes", status=413, code="request_too_large")
        return bytes(data)


def _not_swapped(error: RefrainError) -> RequestError:
    known: dict[type, tuple[int, str]] = {
        MissingInputError: (404, "adapter_not_found"),
        IntegrityError: (409, "adapter_damaged"),
        OutputError: (503, "try_again"),
    }
    status, code = known.get(type(error), (503, "try_again") if isinstance(error, TransientError) else (422, "unfit"))
    return RequestError(str(error), status=status, code=code, param="adapter")


def _refusal(error: RequestError) -> Response:
    headers = {"Retry-After": str(error.retry_seconds)} if error.retry_seconds else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.body, error.status, headers)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _refusal(error)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}: {error.detail}"
    return _refusal(RequestError(what, status=error.status_code, code="not_found"))


async def _gone(_: Request, _error: Exception) -> Response:
    return Response(status_code=GONE)


async def _defect(_: Request, error: Exception) -> Response:
    logger.error("a defect", exc_info=error)
    return _refusal(RequestError("a defect of the server", status=500, code="internal_error"))


class _Door:
    """Before all routes. What it refuses has OpenAI's shape, too."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        visit = Visit(self._service, scope, send)
        try:
            self._let_in(visit)
            await self._within_limits(scope, receive, visit)
        except RequestError as error:
            if not visit.has_begun:
                return await _refusal(error)(scope, receive, visit.send)
            visit.fail(error.status)
        except BaseException as error:
            visit.fail(500 if isinstance(error, Exception) else 503)  # a defect, or the server's time to end is over
            raise
        finally:
            visit.count()
        return None

    def _let_in(self, visit: Visit) -> None:
        if not visit.route.isprintable():  # a route's pattern would overlook a line's end, and we would not
            raise RequestError("no such route", status=404, code="not_found")
        if visit.route == SWAPPING:
            self._service.keys.require_operator(visit.authorization)
        elif visit.route not in OPEN:
            self._service.keys.require_client(visit.authorization)

    async def _within_limits(self, scope: Scope, receive: Receive, visit: Visit) -> None:
        if visit.route not in ANSWERING:
            return await self._app(scope, receive, visit.send)
        try:
            with visit.inside():
                async with asyncio.timeout(self._service.limits.request_seconds + _MORE_SECONDS):
                    await self._app(scope, receive, visit.send)
        except TimeoutError:
            raise RequestError("the request took too long", status=504, code="timeout") from None
        return None
