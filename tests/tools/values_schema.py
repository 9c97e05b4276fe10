"""`values.schema.json` of the chart refrain: types from its values.yaml, bounds from the models behind them.

What ends up in the controller's settings or in the scheduled cycle has the very schema of those models, so that a
typo is refused when the chart is installed, and not on Monday at three. `tests/tools/generate.py` writes it.
"""

from __future__ import annotations

import json
from typing import Any

import yaml
from pydantic import TypeAdapter

from controller.settings import Settings
from jobs.contracts.cycle.bounds import StageName
from jobs.contracts.cycle.data import Source
from jobs.contracts.cycle.pods import StageOverride
from jobs.contracts.cycle.spec import CycleSpec

Schema = dict[str, Any]

_TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
_OBJECTS: Schema = {"type": "array", "items": {"type": "object"}}
_NAMES: Schema = {"type": "array", "items": {"type": "string", "minLength": 1}}
_SECONDS: Schema = {"type": "integer", "minimum": 1}
_QUANTITY: Schema = {"type": ["string", "integer"], "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|[KMGTP]i?|Ei?)?$"}
_DIGEST: Schema = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
_KEY: Schema = {"type": "string", "pattern": "^[-._a-zA-Z0-9]+$"}

_BY_NAME: dict[str, Schema] = {
    "commonLabels": _TEXTS,
    "commonAnnotations": _TEXTS,
    "annotations": _TEXTS,
    "podLabels": _TEXTS,
    "podAnnotations": _TEXTS,
    "labels": _TEXTS,
    "nodeSelector": _TEXTS,
    "env": _TEXTS,
    "tolerations": _OBJECTS,
    "topologySpreadConstraints": _OBJECTS,
    "affinity": {"type": "object"},
    "resources": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "requests": {"type": "object", "additionalProperties": _QUANTITY},
            "limits": {"type": "object", "additionalProperties": _QUANTITY},
            "claims": _OBJECTS,
        },
    },
    "extraEnv": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    "envFromSecrets": _NAMES,
    "allowedSecrets": _NAMES,
    "digest": _DIGEST,
    "key": _KEY,
    "size": _QUANTITY,
    "scratchSize": _QUANTITY,
    "sharedMemorySize": _QUANTITY,
    "repository": {"type": "string", "pattern": "^[a-z0-9]+([._/-]+[a-z0-9]+)*$"},
}
"""By the last part of a value's name."""

_PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
_PORTS: Schema = {"type": "array", "items": _PORT}
_BY_PATH: dict[str, Schema] = {
    "image.registry": {"type": "string", "pattern": r"^([a-zA-Z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*/?)?$"},
    "image.tag": {"type": "string", "pattern": "^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$"},
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "imagePullSecrets": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"type": "string", "minLength": 1}},
            "additionalProperties": False,
        },
    },
    "store.url": {"type": "string", "pattern": "^(s3://[a-z0-9][a-z0-9.-]+(/.*)?)?$"},
    "store.endpoint": {"type": "string", "pattern": "^(https?://[^ /@]+/?)?$"},
    "mail.secrets": _NAMES,
    "mail.imapHosts": {"type": "array", "items": {"type": "string", "minLength": 1}, "uniqueItems": True},
    "gpu.resource": {"type": "string"},
    "proxy.http": {"type": "string", "pattern": "^(https?://[^ ]+)?$"},
    "proxy.https": {"type": "string", "pattern": "^(https?://[^ ]+)?$"},
    "modelCache.accessModes": {
        "type": "array",
        "minItems": 1,
        "items": {"enum": ["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"]},
    },
    "controller.logFormat": {"enum": ["json", "text"]},
    "schedule.cron": {
        "type": "string",
        "pattern": r"^(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|[^ ]+( +[^ ]+){4})$",
    },
    "schedule.timeZone": {"type": "string", "pattern": "^[A-Za-z_]+(/[A-Za-z0-9_+-]+)*$"},
    "schedule.name": {"type": "string", "maxLength": 47, "pattern": "^([a-z0-9]([-.a-z0-9_{}]*[a-z0-9}])?)?$"},
    "schedule.startingDeadlineSeconds": {"type": "integer", "minimum": 10},
    "schedule.historyLimits": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"successful": {"type": "integer", "minimum": 0}, "failed": {"type": "integer", "minimum": 0}},
    },
    "inference.replicas": {"type": ["integer", "null"], "minimum": 0},
    "inference.engine": {"enum": ["refrain", "vllm"]},
    "inference.vllm.extraArgs": {"type": "array", "items": {"type": "string"}},
    "stages.trainJob.kind": {"enum": ["ClusterTrainingRuntime", "TrainingRuntime"]},
    "inference.mode": {"enum": ["Rollout", "Swap"]},
    "inference.gpus": {"type": "integer", "minimum": 0},
    "inference.startupSeconds": _SECONDS,
    "inference.minReadySeconds": {"type": "integer", "minimum": 0},
    "inference.graceSeconds": {"type": "integer", "minimum": 20},
    "inference.logFormat": {"enum": ["json", "text"]},
    "inference.service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "inference.service.port": _PORT,
    "inference.service.sessionAffinity": {"enum": ["ClientIP", "None"]},
    "inference.podDisruptionBudget.maxUnavailable": {"type": ["integer", "string"], "minimum": 0},
    "inference.extraArgs": {"type": "array", "items": {"type": "string"}},
    **{f"networkPolicy.{name}": _PORTS for name in ("apiServerPorts", "dnsPorts", "egressPorts", "imapPorts")},
    **{f"networkPolicy.{name}": _OBJECTS for name in ("clients", "scrapers", "uploaders", "extraEgress")},
    "monitoring.interval": {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"},
    "monitoring.prometheusRule.noPromotionWeeks": {"type": "integer", "minimum": 1, "maximum": 52},
    "monitoring.prometheusRule.alertLabels": _TEXTS,
    "monitoring.prometheusRule.extraGroups": _OBJECTS,
    "extraObjects": {"type": "array", "items": {"type": ["object", "string"]}},
}

_FROM_SETTINGS = {
    "controller.owner": "owner",
    "controller.resyncSeconds": "resyncSeconds",
    "controller.progressSeconds": "progressSeconds",
    "stages.graceSeconds": "graceSeconds",
    "stages.lightResources": "lightResources",
    "stages.heavyResources": "heavyResources",
}
"""Values that the controller's settings take as they are."""
_FROM_VALUES = ("archive", "sources", "suspend")
"""Fields of a cycle's spec that have a value of their own."""


def values_schema(values: str) -> str:
    """The schema of a values.yaml, as JSON."""
    root = yaml.compose(values, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    definitions: Schema = {}
    by_path = _BY_PATH | _of_models(definitions)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_group(root, "", by_path)}
    schema["properties"]["global"] = {"type": "object"}  # Helm gives it to a chart that another one depends on
    schema["$defs"] = {name: definitions[name] for name in sorted(definitions)}
    return json.dumps(schema, indent=1) + "\n"


def _of_models(definitions: Schema) -> dict[str, Schema]:
    settings = _lifted(Settings.model_json_schema(), definitions)
    cycle = _lifted(CycleSpec.model_json_schema(), definitions)
    spec = {name: field for name, field in cycle["properties"].items() if name not in _FROM_VALUES}
    for inner in ("ModelSpec", "StoreSpec"):  # whose required fields are values of their own
        definitions[inner].pop("required")
    one_source = _lifted(Source.model_json_schema(), definitions) | {"minProperties": 1, "maxProperties": 1}
    overrides = TypeAdapter(dict[StageName, StageOverride]).json_schema()
    return {
        **{path: settings["properties"][name] for path, name in _FROM_SETTINGS.items()},
        "archive": cycle["properties"]["archive"],
        "model.base": definitions["ModelSpec"]["properties"]["base"],
        "schedule.spec": {"type": "object", "additionalProperties": False, "properties": spec},
        "schedule.sources": {"type": "array", "maxItems": 64, "items": one_source},
        "stages.overrides": _lifted(overrides, definitions),
    }


def _lifted(schema: Schema, definitions: Schema) -> Schema:
    """A model's schema without its definitions, which go with the others, and without what no user reads."""
    definitions |= {name: _plain(one) for name, one in schema.pop("$defs", {}).items()}
    return _plain(schema)


def _plain(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: value for name, value in schema.items() if not _is_noise(name, value)}
    names = {name: _plain(value) for name, value in kept.pop("properties", {}).items()}
    return {name: _plain(value) for name, value in kept.items()} | ({"properties": names} if names else {})


def _is_noise(name: str, value: Any) -> bool:
    return (name == "title" and isinstance(value, str)) or name == "default" or name.startswith("x-kubernetes-")


def _group(mapping: yaml.MappingNode, prefix: str, by_path: dict[str, Schema]) -> Schema:
    properties = {key.value: _value(f"{prefix}{key.value}", value, by_path) for key, value in mapping.value}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _value(path: str, value: yaml.Node, by_path: dict[str, Schema]) -> Schema:
    known = by_path.get(path) or _BY_NAME.get(path.rpartition(".")[2])
    if known is not None:
        return known
    if isinstance(value, yaml.MappingNode):
        if not value.value:
            raise SystemExit(f"values.yaml: tests/tools/values_schema.py does not know what may stand in {path}")
        return _group(value, f"{path}.", by_path)
    kinds = {"str": "string", "bool": "boolean"}
    kind = kinds.get(value.tag.rpartition(":")[2])
    if kind is None:
        raise SystemExit(f"values.yaml: tests/tools/values_schema.py does not know what {path} may be")
    return {"type": kind, **({"minLength": 1} if kind == "string" and value.value else {})}
