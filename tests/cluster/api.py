"""A small client of the Kubernetes API for tests: objects are dictionaries, as in YAML."""

from __future__ import annotations

import json
import ssl
import time
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

import urllib3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Object = dict[str, Any]
T = TypeVar("T")

_PATCHES = {
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}


class ApiError(Exception):
    """An answer that is no success: `code` (HTTP), `reason` (`NotFound`, `Conflict` …) and the server's words."""

    def __init__(self, code: int, body: bytes) -> None:
        try:
            status = json.loads(body)
        except ValueError:
            status = {}
        self.code = code
        self.reason: str = status.get("reason") or ""
        self.status: Object = status
        super().__init__(f"{code} {self.reason}: {status.get('message') or body[:500].decode(errors='replace')}")


class Api:
    """A client with one user's token. Kinds are named `v1/Pod`, `batch/v1/Job`. It is safe among threads."""

    def __init__(self, server: str, token: str, ca: Path) -> None:
        self.server = server
        self.token = token
        context = ssl.create_default_context(cafile=str(ca))
        self._pool = urllib3.PoolManager(maxsize=32, ssl_context=context, retries=False)
        self._plurals: dict[str, tuple[str, bool]] = {}

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, Any] | None = None,
        content_type: str = "application/json",
        seconds: float = 30,
    ) -> Any:
        """The parsed answer to one request; ApiError where it is refused."""
        answer = self.send(method, path, body, query=query, content_type=content_type, timeout=seconds)
        if answer.status >= 400:
            raise ApiError(answer.status, answer.data)
        is_json = "json" in answer.headers.get("Content-Type", "")
        return json.loads(answer.data) if is_json else answer.data.decode()

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, Any] | None = None,
        content_type: str = "application/json",
        **options: Any,
    ) -> urllib3.BaseHTTPResponse:
        """The raw answer to one request."""
        return self._pool.request(
            method,
            f"{self.server}{path}" + (f"?{urlencode(query)}" if query else ""),
            body=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": content_type},
            **options,
        )

    def path(self, kind: str, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """The path of an object, or of all of its kind."""
        plural, namespaced = self._plural(kind)
        version = kind.rpartition("/")[0]
        parts = ["/apis" if "/" in version else "/api", version]
        if namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [plural, *([quote(name)] if name else []), *([subresource] if subresource else [])]
        return "/".join(parts)

    def create(self, document: Object, namespace: str | None = None) -> Object:
        kind, namespace = f"{document['apiVersion']}/{document['kind']}", _namespace(document, namespace)
        return self.request("POST", self.path(kind, namespace), document, query={"fieldValidation": "Strict"})

    def apply(self, document: Object, namespace: str | None = None, manager: str = "tests") -> Object:
        """Server-side apply, by force."""
        kind, namespace = f"{document['apiVersion']}/{document['kind']}", _namespace(document, namespace)
        path = self.path(kind, namespace, document["metadata"]["name"])
        query = {"fieldManager": manager, "force": "true", "fieldValidation": "Strict"}
        return self.request("PATCH", path, document, query=query, content_type=_PATCHES["apply"])

    def get(self, kind: str, name: str, namespace: str | None = None) -> Object:
        return self.request("GET", self.path(kind, namespace, name))

    def find(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """The object, or None where there is none."""
        try:
            return self.get(kind, name, namespace)
        except ApiError as error:
            if error.code != 404:
                raise
            return None

    def list(self, kind: str, namespace: str | None = None, *, labels: str = "", fields: str = "") -> list[Object]:
        """All objects of a kind; items carry their kind."""
        query = {"labelSelector": labels, "fieldSelector": fields}
        items = self.request("GET", self.path(kind, namespace), query=query)["items"]
        version, _, name = kind.rpartition("/")
        return [{"apiVersion": version, "kind": name, **item} for item in items]

    def patch(
        self,
        kind: str,
        name: str,
        namespace: str | None,
        body: Any,
        *,
        subresource: str = "",
        patch: str = "merge",
    ) -> Object:
        """Patch by `merge`, `strategic`, `json`, or `apply`."""
        query = {"fieldManager": "tests"} | ({"force": "true"} if patch == "apply" else {})
        path = self.path(kind, namespace, name, subresource)
        return self.request("PATCH", path, body, query=query, content_type=_PATCHES[patch])

    def delete(
        self,
        kind: str,
        name: str,
        namespace: str | None = None,
        *,
        propagation: str = "Background",
        grace_seconds: int | None = None,
        uid: str | None = None,
    ) -> Any:
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if uid:
            options["preconditions"] = {"uid": uid}
        return self.request("DELETE", self.path(kind, namespace, name), options)

    def _plural(self, kind: str) -> tuple[str, bool]:
        if kind not in self._plurals:
            version = kind.rpartition("/")[0]
            for item in self.request("GET", f"/{'apis' if '/' in version else 'api'}/{version}")["resources"]:
                if "/" not in item["name"]:
                    self._plurals[f"{version}/{item['kind']}"] = (item["name"], item["namespaced"])
        return self._plurals[kind]


class Watch:
    """Events of a kind from now on, over reconnections: `(type, object)`, beginning with what is there as `ADDED`.

    What went in a gap is told as `DELETED`. `stop` may be called from another thread.
    """

    def __init__(self, api: Api, kind: str, namespace: str | None = None, fields: str = "") -> None:
        self._api, self._kind, self._namespace, self._fields = api, kind, namespace, fields
        self._known: dict[str, Object] = {}
        self._answer: urllib3.BaseHTTPResponse | None = None
        self._stopped = False

    def __iter__(self) -> Iterator[tuple[str, Object]]:
        while not self._stopped:
            try:
                yield from self._once()
            except (OSError, ApiError, urllib3.exceptions.HTTPError, ValueError, KeyError):
                time.sleep(0.1)

    def _once(self) -> Iterator[tuple[str, Object]]:
        path, query = self._api.path(self._kind, self._namespace), {"fieldSelector": self._fields}
        found = self._api.request("GET", path, query=query)
        there = {item["metadata"]["uid"] for item in found["items"]}
        for uid in set(self._known) - there:
            yield "DELETED", self._known.pop(uid)
        for item in found["items"]:
            yield self._noted("ADDED", item)
        query |= {"watch": "1", "resourceVersion": found["metadata"]["resourceVersion"]}
        answer = self._api.send("GET", path, query=query, preload_content=False, timeout=urllib3.Timeout(10, None))
        self._answer = answer
        try:
            for event in lines(answer):
                if self._stopped or event["type"] == "ERROR":
                    return
                yield self._noted(event["type"], event["object"])
        finally:
            self._answer = None
            answer.close()

    def _noted(self, type_: str, item: Object) -> tuple[str, Object]:
        if type_ == "DELETED":
            self._known.pop(item["metadata"]["uid"], None)
        else:
            self._known[item["metadata"]["uid"]] = item
        return type_, item

    def stop(self) -> None:
        self._stopped = True
        if answer := self._answer:
            answer.shutdown()


def lines(answer: urllib3.BaseHTTPResponse) -> Iterator[Object]:
    """The JSON documents of a streamed answer, one a line."""
    rest = b""
    for part in answer.stream(amt=None):
        *whole, rest = (rest + part).split(b"\n")
        yield from map(json.loads, filter(None, whole))


def wait_for(condition: Callable[[], T], seconds: float = 30, what: str = "") -> T:
    """What a function gives as soon as it is true; AssertionError where that takes too long.

    AssertionErrors, 404s, and 429s (a new kind's storage is not ready) inside count as not yet.
    """
    deadline = time.monotonic() + seconds
    last: Any = None
    while time.monotonic() < deadline:
        try:
            last = condition()
        except AssertionError as error:
            last = error
        except ApiError as error:
            if error.code not in (404, 429):
                raise
            last = error
        else:
            if last:
                return last
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what or condition}; last: {last!r}")


def _namespace(document: Object, namespace: str | None) -> str | None:
    return document["metadata"].get("namespace") or namespace
