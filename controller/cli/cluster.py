"""The client of `refrain cycle`: the controller's, by a kubeconfig and a context of it, with a little more."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import yaml

from controller.cycles import Cycle, read_cycle
from controller.objects import PLURAL, Json, name
from jobs.contracts.errors import AccessError, ConfigError, MissingInputError, PermanentError, TransientError

try:
    import urllib3
    from kubernetes import client as kubernetes_client
    from kubernetes import config as kubernetes_config
    from kubernetes.client.exceptions import ApiException
    from kubernetes.config import kube_config

    from controller.api import Api, ApiError
except ImportError as error:
    raise ConfigError(f"{error.name} is not installed", hint="pip install 'refrain[controller]'") from error

_NO_KIND = "kubectl apply -f crds/ installs it"
_FORBIDDEN = re.compile(r'User "(.*?)" cannot (\S+) resource "(.*?)" in API group "(.*?)"')


class Cluster(Api):
    """One namespace as a user sees it."""

    @property
    def server(self) -> str:
        """Where the API server is."""
        return str(self._client.configuration.host)

    def cycle(self, name_: str) -> Cycle:
        """A cycle; MissingInputError."""
        found = self.get(PLURAL, name_)
        if found is None:
            raise self._no_such(name_)
        return read_cycle(found)

    def cycles(self, archive: str | None = None) -> list[Cycle]:
        """Those of the namespace, or of one archive, in order of creation."""
        selector = {"fieldSelector": f"spec.archive={archive}"} if archive else {}
        return sorted(map(read_cycle, self.list(PLURAL, **selector)), key=lambda cycle: cycle.order)

    def create_cycle(self, document: Json, *, dry_run: bool) -> Json:
        """Create it, or with `dry_run` let the API server say whether it would."""
        query = {"fieldValidation": "Strict", "fieldManager": "refrain-cycle"} | ({"dryRun": "All"} if dry_run else {})
        return self._request("POST", self._place(PLURAL), query, document)

    def version(self) -> Json:
        """Of the API server."""
        return self._request("GET", "/version")

    def follow(self, pod: str, **options: str) -> Iterator[bytes]:
        """What a pod prints, as it comes, until it ends. TransientError where the connection is lost."""
        path = f"{self._place('pods')}/{pod}/log"
        query = list((options | {"follow": "true"}).items())
        prepared = self._client.param_serialize(
            "GET", path, header_params={"Accept": "*/*"}, auth_settings=["BearerToken"], query_params=query
        )
        try:
            answer = self._client.call_api("GET", prepared[1], prepared[2], _request_timeout=(30, None))
            if answer.status != 200:
                raise _refused(answer.status, answer.read())
            yield from answer.response.stream(amt=None)
        except ApiException as error:
            raise _refused(error.status or 0, error.body) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TransientError(f"the connection was lost: {error}", where=pod) from error

    def _no_such(self, name_: str) -> MissingInputError:
        try:
            names = [name(one) for one in self.list(PLURAL)]
        except ApiError as error:
            if error.status == 404:
                return _no_kind()
            names = []
        close = difflib.get_close_matches(name_, names, n=1)
        hint = f"did you mean {close[0]}?" if close else "refrain cycle list shows those that are there"
        return MissingInputError(f"there is no cycle {name_}", where=f"namespace {self.namespace}", hint=hint)


def connect(namespace: str | None, context: str | None) -> Cluster:
    """By the kubeconfig, or inside a pod without one by its service account. AccessError."""
    configuration = kubernetes_client.Configuration()
    try:
        default = _load(configuration, context)
    except (kubernetes_config.ConfigException, yaml.YAMLError, OSError) as error:
        hint = "set KUBECONFIG; kubectl config get-contexts shows the contexts that there are"
        raise AccessError(f"no cluster to talk to: {error}", hint=hint) from error
    configuration.retries = urllib3.Retry(total=0)
    client = kubernetes_client.ApiClient(configuration)
    return Cluster(client, namespace or default)


def _load(configuration: Any, context: str | None) -> str:
    """Fill in the configuration; the namespace that goes with it."""
    files = kube_config.KubeConfigMerger(os.environ.get("KUBECONFIG") or kube_config.KUBE_CONFIG_DEFAULT_LOCATION)
    if files.config is None and context is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
        kubernetes_config.load_incluster_config(client_configuration=configuration)
        return Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read_text().strip()
    if files.config is None:
        raise kubernetes_config.ConfigException("there is no kubeconfig")
    loader = kube_config.KubeConfigLoader(
        files.config, active_context=context, config_base_path=None, config_persister=files.save_changes
    )
    loader.load_and_set(configuration)
    return str(loader.current_context["context"].get("namespace") or "default")


@contextlib.contextmanager
def told_error(cluster: Cluster) -> Iterator[None]:
    """Inside, what the API server refuses is an error for a user."""
    try:
        yield
    except ApiError as error:
        raise refusal(error, cluster.namespace) from error
    except TransientError as error:
        if error.hint:
            raise
        raise TransientError(
            error.what, where=error.where, hint=f"is {cluster.server} the right one, and is it up?"
        ) from error


def refusal(error: ApiError, namespace: str) -> PermanentError | TransientError:
    """What a user is told of a refusal, with the server's words."""
    where = f"namespace {namespace}"
    if error.status == 401:
        return AccessError(f"the API server does not know you: {error.message}", hint="log in to the cluster again")
    if error.status == 403:
        return _forbidden(error, where)
    if error.status == 404:
        is_of_a_name = error.message.endswith("not found") and '"' in error.message
        return MissingInputError(error.message, where=where) if is_of_a_name else _no_kind()
    if error.is_permanent or error.status in (405, 406, 409):
        return ConfigError(error.message, where=where)
    return TransientError(f"the API server says {error}", where=where)


def _forbidden(error: ApiError, where: str) -> AccessError:
    said = _FORBIDDEN.search(error.message)
    if said is None:  # a quota, an admission webhook, a namespace on its way out
        return AccessError(error.message, where=where)
    user, verb, resource, group = said.groups()
    hint = f'ask for a Role with apiGroups: ["{group}"], resources: ["{resource}"], verbs: ["{verb}"]'
    return AccessError(f"{user} may not {verb} {resource}{f'.{group}' if group else ''}", where=where, hint=hint)


def _no_kind() -> MissingInputError:
    return MissingInputError("the cluster does not know RetrainCycles", hint=_NO_KIND)


def _refused(status: int, body: Any) -> ApiError:
    try:
        said = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError:
        said = {"message": bytes(body).decode(errors="replace")}
    return ApiError(status, str(said.get("reason", "")), str(said.get("message", "")))
