"""JSON schemas of Kubernetes' kinds for kubeconform, from the control plane's own OpenAPI and resource definitions.

They are strict: a field that the API server does not know is refused, where it would prune it silently.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cluster.api import Api, Object

LOCATION = "{{.ResourceKind}}{{.KindSuffix}}.json"
"""How kubeconform finds a kind's file in a folder."""
_AS_IS = ("x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource")


def write_schemas(folder: Path, api: Api, definitions: Iterable[Object]) -> None:
    """A file for each kind of the API server, and for each of some resource definitions."""
    known = api.request("GET", "/openapi/v2")["definitions"]
    (folder / "_definitions.json").write_text(
        json.dumps({"definitions": {n: _strict(one) for n, one in known.items()}})
    )
    for name, one in known.items():
        for kind in one.get("x-kubernetes-group-version-kind", ()):
            path = folder / _filename(kind["group"], kind["version"], kind["kind"])
            path.write_text(json.dumps({"$ref": f"_definitions.json#/definitions/{name}"}))
    for definition in definitions:
        spec = definition["spec"]
        for version in spec["versions"]:
            schema = _strict(version["schema"]["openAPIV3Schema"], is_root=True)
            (folder / _filename(spec["group"], version["name"], spec["names"]["kind"])).write_text(json.dumps(schema))


def _filename(group: str, version: str, kind: str) -> str:
    prefix = f"{group.partition('.')[0]}-" if group else ""
    return f"{kind.lower()}-{prefix}{version}.json"


def _strict(schema: Any, *, is_root: bool = False) -> Any:
    """A schema whose objects have the fields that they name, and no others."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items() if key not in ("properties", "description", "default")}
    if "properties" in schema:
        made["properties"] = {name: _strict(one) for name, one in schema["properties"].items()}
        if is_root:
            made["properties"]["metadata"] = {"type": "object"}
        if not any(schema.get(name) for name in _AS_IS) and "additionalProperties" not in schema:
            made["additionalProperties"] = False
    if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if is_quantity(schema):
        return {"type": ["string", "number"]}
    return made


def is_quantity(schema: Object) -> bool:
    """An amount of something, which may be written as a number."""
    return schema.get("type") == "string" and "fixed-point representation of a number" in schema.get("description", "")
