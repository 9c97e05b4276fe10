"""RetrainCycles before their two judges: the models, and an API server that knows the resource."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.api import Api, ApiError, Object
from pydantic import ValidationError

from jobs.contracts.cycle import RetrainCycle

KIND = "refrain.dev/v1alpha1/RetrainCycle"


def document(spec: Object, name: str = "w1") -> Object:
    return {"apiVersion": "refrain.dev/v1alpha1", "kind": "RetrainCycle", "metadata": {"name": name}, "spec": spec}


def models_refusal(cycle: Object) -> str:
    """What is wrong with a cycle, as the models say; empty where nothing is."""
    try:
        RetrainCycle.model_validate(cycle, by_alias=True, by_name=False)
    except ValidationError as error:
        return str(error)
    return ""


@dataclass
class Server:
    """An API server that knows the resource."""

    api: Api
    namespace: str

    def created(self, cycle: Object, *, keep: bool = False) -> Object:
        """What it makes of a cycle."""
        query = {"fieldValidation": "Strict"} | ({} if keep else {"dryRun": "All"})
        return self.api.request("POST", self.path(), as_kubectl_sends(cycle), query=query)

    def refusal(self, cycle: Object) -> str:
        try:
            self.created(cycle)
        except ApiError as error:
            if error.code not in (400, 422):
                raise
            return str(error)
        return ""

    def patched(self, name: str, patch: Object, subresource: str = "", *, keep: bool = False) -> Object:
        query = {"fieldValidation": "Strict"} | ({} if keep else {"dryRun": "All"})
        kind = "application/merge-patch+json"
        return self.api.request("PATCH", self.path(name, subresource), patch, query=query, content_type=kind)

    def path(self, name: str | None = None, subresource: str = "") -> str:
        return self.api.path(KIND, self.namespace, name, subresource)


def as_kubectl_sends(value: Any) -> Any:
    """Without a point in whole numbers, as Go writes JSON; rules of whole numbers would stumble over one."""
    if isinstance(value, dict):
        return {name: as_kubectl_sends(one) for name, one in value.items()}
    if isinstance(value, list):
        return [as_kubectl_sends(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
