"""Tables of docs/reference/, made from what they describe: metrics, stages with their artifacts, a cycle's fields.

`tests/tools/generate.py` writes them into the pages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from controller import metrics as controller_metrics
from controller.crd import custom_resource_definition
from controller.serving import INFERENCE_RIGHTS, RIGHTS, TRAIN_JOB_RIGHTS
from jobs.contracts.artifacts import ARTIFACTS, artifact_key, marker_key
from jobs.contracts.stages import STAGES, Stage, writer
from jobs.ml.training.progress import METRICS as TRAIN_METRICS
from jobs.serving.metrics import Metrics as ServeMetrics

Schema = dict[str, Any]

_RIGHTS = {
    "controller": RIGHTS,
    "controller, where inference is enabled": INFERENCE_RIGHTS,
    "controller, where training is handed over": TRAIN_JOB_RIGHTS,
    "schedule": (("refrain.dev", "retraincycles", ("create",)),),
}
_KINDS = {Counter: "counter", Gauge: "gauge", Histogram: "histogram"}


def metrics_table(collectors: Iterable[MetricWrapperBase]) -> str:
    """Name, type, labels and help of each, a counter by the name that it is read under."""
    rows = ["| metric | type | labels | |", "|---|---|---|---|"]
    for one in collectors:
        kind = _KINDS[type(one)]
        name = f"{one._name}_total" if kind == "counter" else one._name
        labels = ", ".join(f"`{label}`" for label in one._labelnames)
        rows.append(f"| `{name}` | {kind} | {labels} | {one._documentation} |")
    return "\n".join(rows)


def controller_table() -> str:
    """What the controller serves."""
    return metrics_table(one for one in vars(controller_metrics).values() if _is_metric(one))


def serve_table() -> str:
    """What the inference server serves."""
    metrics = vars(ServeMetrics())
    return metrics_table(one for one in (*metrics.values(), *metrics["_watched"].values()) if _is_metric(one))


def _is_metric(value: object) -> bool:
    return isinstance(value, MetricWrapperBase)


def alerts_table(alerts: str) -> str:
    """The alerts of the chart: when, and what to do."""
    rows = ["| alert | severity | says | what to do |", "|---|---|---|---|"]
    for one in yaml.safe_load(re.sub(r"@(\w+)@", lambda found: found[1], alerts)):
        said = {name: _filled(text) for name, text in one["annotations"].items()}
        rows.append(f"| `{one['alert']}` | {one['labels']['severity']} | {said['summary']} | {said['description']} |")
    return "\n".join(rows)


def _filled(text: str) -> str:
    return _cell(re.sub(r"{{ \$labels\.(\w+) }}", lambda found: found[1].upper(), text))


def rights_table() -> str:
    """What each account may do in the release's namespace."""
    rows = ["| account | may | of |", "|---|---|---|"]
    for account, rights in _RIGHTS.items():
        for group, resource, verbs in rights:
            rows.append(f"| {account} | {', '.join(verbs)} | `{resource}{f'.{group}' if group else ''}` |")
    return "\n".join(
        [*rows, "| stages | nothing: no token is mounted | |", "| inference | nothing: no token is mounted | |"]
    )


def train_table() -> str:
    """What a training serves, and under which name `/progress` has it."""
    rows = ["| metric | type | in `/progress` | |", "|---|---|---|---|"]
    return "\n".join(
        [*rows, *(f"| `{name}` | gauge | `{key}` | {said} |" for key, (name, said) in TRAIN_METRICS.items())]
    )


def stages_table() -> str:
    """What the stage table says of each stage's Job."""
    rows = [
        "| stage | after | image | device | tries | deadline | in further attempts |",
        "|---|---|---|---|--:|--:|---|",
    ]
    for stage in STAGES:
        after = ", ".join(f"`{one}`" for one in stage.after)
        again = "again" if stage.is_retrained else ""
        hours = f"{stage.deadline_seconds // 3600} h"
        rows.append(
            f"| `{stage.name}` | {after} | {stage.image} | {stage.device} | {stage.retries + 1} | {hours} | {again} |"
        )
    return "\n".join(rows)


def stage_sections() -> str:
    """Each stage with what it reads, from whom, and what it writes, and where."""
    return "\n\n".join("\n".join(_section(stage)) for stage in STAGES)


def _section(stage: Stage) -> Iterator[str]:
    yield f"### {stage.name}\n"
    yield f"{stage.summary} [`{stage.module}`](../../jobs/stages/{stage.name}.py)\n"
    reads = [f"`{ARTIFACTS[kind].filename}` of `{writer(kind).name}`" for kind in stage.reads]
    reads += ["the adapter in service when the cycle began"] if stage.reads_incumbent else []
    yield f"Reads {'; '.join(reads) or 'the sources'}.\n"
    yield "| writes | key | |"
    yield "|---|---|---|"
    for kind in stage.writes:
        artifact = ARTIFACTS[kind]
        slash = "/" if artifact.is_folder else ""
        yield f"| {kind} | `{artifact_key('<cycle>', stage.name, kind)}{slash}` | {artifact.summary} |"
    yield f"| the marker | `{marker_key('<cycle>', stage.name)}` | written last: now the others count |"


def spec_fields() -> str:
    """Every field of a cycle's spec: its type, default and bounds, and what it means."""
    spec = _schema()["properties"]["spec"]
    return "\n\n".join(_sections(spec, "spec"))


def spec_rules() -> str:
    """Rules that span fields, by where they stand, with what they say to who breaks them."""
    rows = ["| where | rule |", "|---|---|"]
    rows += [f"| `{path}` | {_cell(message)} |" for path, message in _messages(_schema()["properties"]["spec"], "spec")]
    return "\n".join(rows)


def status_fields() -> str:
    """Every field of a cycle's status."""
    return "\n".join(["| field | type | |", "|---|---|---|", *_status_rows(_schema()["properties"]["status"], "")])


def _schema() -> Schema:
    (version,) = custom_resource_definition()["spec"]["versions"]
    return dict(version["schema"]["openAPIV3Schema"])


def _sections(schema: Schema, path: str) -> Iterator[str]:
    """A table for the fields of an object, then one for each object among them."""
    required = schema.get("required", [])
    rows = [f"### {path}", "", schema["description"], ""] if path != "spec" else ["### spec", ""]
    rows += ["| field | type | default | |", "|---|---|---|---|"]
    inner: list[tuple[Schema, str]] = []
    for name, field in schema["properties"].items():
        default = _default(field, is_required=name in required)
        rows.append(f"| `{name}` | {_type(field)} | {default} | {_cell(field['description'])} |")
        inner += _objects(field, f"{path}.{name}")
    yield "\n".join(rows)
    for one, place in inner:
        yield from _sections(one, place)


def _objects(field: Schema, path: str) -> list[tuple[Schema, str]]:
    """The object that a field is, or is a list or a map of; none where it is a plain value."""
    if "properties" in field:
        return [(field, path)]
    if "properties" in field.get("items", {}):
        return [(field["items"], f"{path}[]")]
    more = field.get("additionalProperties", {})
    return [(more, f"{path}.*")] if "properties" in more else []


def _status_rows(schema: Schema, prefix: str) -> Iterator[str]:
    for name, field in schema["properties"].items():
        yield f"| `{prefix}{name}` | {_type(field)} | {_cell(field.get('description', ''))} |"
        for one, place in _objects(field, f"{prefix}{name}"):
            yield from _status_rows(one, f"{place}.")


def _type(field: Schema) -> str:
    if "enum" in field:
        return " or ".join(f"`{one}`" for one in field["enum"])
    if field.get("x-kubernetes-int-or-string"):
        return "integer or string"
    kind = field.get("type", "any")
    if kind == "array":
        return f"list of {_type(field['items'])}{_most(field, 'maxItems')}"
    if kind == "object" and "properties" not in field:
        more = field.get("additionalProperties")
        return f"map of {_type(more)}{_most(field, 'maxProperties')}" if more else "object"
    return f"{kind}{_bounds(field)}"


def _most(field: Schema, keyword: str) -> str:
    return f", at most {field[keyword]}" if keyword in field else ""


def _bounds(field: Schema) -> str:
    said = []
    if "minimum" in field:
        said.append(f"{'>' if field.get('exclusiveMinimum') else '≥'} {_number(field['minimum'])}")
    if "maximum" in field and field["maximum"] < 2**53:
        said.append(f"{'<' if field.get('exclusiveMaximum') else '≤'} {_number(field['maximum'])}")
    if "maxLength" in field:
        said.append(f"≤ {field['maxLength']} characters")
    return f" {', '.join(said)}" if said else ""


def _number(value: float) -> str:
    return f"{value:,}"


def _default(field: Schema, *, is_required: bool) -> str:
    if is_required:
        return "required"
    default = field.get("default")
    if "properties" in field or default in (None, [], {}, ""):
        return ""
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _messages(schema: Schema, path: str) -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", []):
        yield path, rule["message"]
    for name, field in schema.get("properties", {}).items():
        yield from _messages(field, f"{path}.{name}")
    if "items" in schema:
        yield from _messages(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _messages(schema["additionalProperties"], f"{path}.*")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
