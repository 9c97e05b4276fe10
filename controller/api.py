"""The one client of the API server: plain JSON over the Kubernetes package's connection, credentials and TLS.

Only `observe` and `apply` use it. Every write says fieldValidation=Strict, for the server drops unknown
fields silently; every delete says what becomes of what the object owns, for the default leaves pods running.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import urllib3
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config
from kubernetes.client.exceptions import ApiException

from controller.objects import GROUP, PLURAL, TRAIN_JOBS, TRAINER_GROUP, VERSION, Json
from jobs.contracts.errors import AccessError, TransientError

_SECONDS = (30, 30)
"""To connect, and to be answered."""
_PAGE = 500
_STRICT = {"fieldValidation": "Strict"}


class ApiError(Exception):
    """The API server refused a request."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        """Seconds that the server asks to wait."""

    @property
    def is_permanent(self) -> bool:
        """Whether the same request would be refused again."""
        return self.status in (400, 413, 415, 422)


class Api:
    """Reads and writes of one namespace's objects. Safe to use from several threads."""

    def __init__(self, client: kubernetes_client.ApiClient, namespace: str) -> None:
        self._client = client
        self.namespace = namespace

    def get(self, kind: str, name: str) -> Json | None:
        """One object; None where it is not there."""
        try:
            return self._request("GET", f"{self._place(kind)}/{name}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(self, kind: str, **selectors: str) -> list[Json]:
        """All objects that fit `labelSelector` and `fieldSelector`."""
        found: list[Json] = []
        token = ""
        while True:
            page = self._request("GET", self._place(kind), selectors | {"limit": str(_PAGE), "continue": token})
            found += page["items"]
            token = page["metadata"].get("continue", "")
            if not token:
                return found

    def create(self, kind: str, manifest: Json) -> Json:
        """Create an object; ApiError 409 where it is there already."""
        return self._request("POST", self._place(kind), _STRICT, manifest)

    def apply(
        self, kind: str, name: str, manifest: Json, *, manager: str, subresource: str = "", force: bool = False
    ) -> Json:
        """Server-side apply: what the manager has said before and does not say now is taken away."""
        query = _STRICT | {"fieldManager": manager, "force": str(force).lower()}
        path = "/".join(filter(None, (self._place(kind), name, subresource)))
        return self._request("PATCH", path, query, manifest, "application/apply-patch+yaml")

    def merge(self, kind: str, name: str, patch: Json) -> Json:
        """A merge patch, for what people change by hand."""
        return self._request("PATCH", f"{self._place(kind)}/{name}", _STRICT, patch, "application/merge-patch+json")

    def delete(self, kind: str, name: str, uid: str, *, propagation: str = "Background") -> bool:
        """Delete the object with that uid, and in the background what it owns; False where it is not there.

        With the propagation `Foreground` it stays, as one that is being deleted, until what it owns is gone.
        """
        options = {"propagationPolicy": propagation, "preconditions": {"uid": uid}}
        try:
            self._request("DELETE", f"{self._place(kind)}/{name}", {}, options)
        except ApiError as error:
            if error.status in (404, 409):  # gone, or another one of that name
                return False
            raise
        return True

    def may(self, verb: str, group: str, resource: str) -> bool:
        """Whether this client has a right in its namespace; `resource` may be `kind/subresource`."""
        resource, _, subresource = resource.partition("/")
        attributes = {"namespace": self.namespace, "verb": verb, "group": group, "resource": resource}
        attributes |= {"subresource": subresource} if subresource else {}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(self._request("POST", path, _STRICT, review)["status"]["allowed"])

    def logs(self, pod: str, **options: str) -> bytes:
        """What a pod has printed."""
        return self._send("GET", f"{self._place('pods')}/{pod}/log", options)

    def _place(self, kind: str) -> str:
        return _PLACES[kind].format(namespace=self.namespace)

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
    ) -> Json:
        value: Json = orjson.loads(self._send(method, path, query, body, content_type))
        return value

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        """One request; ApiError for a refusal, TransientError where there was no answer."""
        headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": "refrain-controller"}
        prepared = self._client.param_serialize(
            method, path, header_params=headers, auth_settings=["BearerToken"], query_params=list((query or {}).items())
        )
        _, url, sent_headers, _, _ = prepared
        # The client writes JSON itself, but for what it takes for YAML.
        data = orjson.dumps(body).decode() if content_type.endswith("yaml") else body
        try:
            answer = self._client.call_api(method, url, sent_headers, data, _request_timeout=_SECONDS)
            content: bytes = answer.read()
        except ApiException as error:
            raise _refusal(error.status or 0, error.reason or "", error.body, error.headers) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TransientError(f"the API server did not answer: {error}", where=path) from error
        if not 200 <= answer.status < 300:
            raise _refusal(answer.status, answer.reason or "", content, answer.getheaders())
        return content


_PLACES = {
    PLURAL: f"/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/{PLURAL}",
    "jobs": "/apis/batch/v1/namespaces/{namespace}/jobs",
    TRAIN_JOBS: f"/apis/{TRAINER_GROUP}/v1alpha1/namespaces/{{namespace}}/{TRAIN_JOBS}",
    "cronjobs": "/apis/batch/v1/namespaces/{namespace}/cronjobs",
    "pods": "/api/v1/namespaces/{namespace}/pods",
    "services": "/api/v1/namespaces/{namespace}/services",
    "events": "/api/v1/namespaces/{namespace}/events",
    "deployments": "/apis/apps/v1/namespaces/{namespace}/deployments",
}


def _refusal(status: int, reason: str, body: Any, headers: Any) -> ApiError:
    try:
        said = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError:
        said = {}
    said = said if isinstance(said, dict) else {}
    asked = dict(headers or {}).get("Retry-After", "")
    retry_after = float(asked) if str(asked).isdigit() else None
    return ApiError(status, str(said.get("reason") or reason), str(said.get("message") or reason), retry_after)


def connect(namespace: str | None = None) -> Api:
    """A client with the pod's own service account, or by the current kubeconfig; AccessError.

    Without a namespace it is the pod's, or the kubeconfig context's.
    """
    configuration = kubernetes_client.Configuration()
    try:
        if os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
            kubernetes_config.load_incluster_config(client_configuration=configuration)
            default = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read_text().strip()
        else:
            file = os.environ.get("KUBECONFIG")  # now, not as it was when the library was imported
            kubernetes_config.load_kube_config(file, client_configuration=configuration)
            context = kubernetes_config.list_kube_config_contexts(file)[1]
            default = context["context"].get("namespace", "default")
    except (kubernetes_config.ConfigException, OSError) as error:
        raise AccessError(
            f"no cluster to talk to: {error}", hint="set KUBECONFIG, or kubectl config use-context"
        ) from error
    configuration.retries = urllib3.Retry(total=0)
    configuration.connection_pool_maxsize = 16
    return Api(kubernetes_client.ApiClient(configuration), namespace or default)
