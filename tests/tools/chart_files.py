"""What the charts are made from the code: the resource definition, the controller's rules, a table of the values.

`tests/tools/generate.py` writes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from values_schema import values_schema

from controller.crd import crd_yaml
from controller.serving import INFERENCE_RIGHTS, RIGHTS, TRAIN_JOB_RIGHTS

_KEEP = """\
  labels:
    {{- toYaml (merge (dict "app.kubernetes.io/part-of" "refrain") .Values.commonLabels) | nindent 4 }}
  annotations:
    {{- toYaml (merge (dict "helm.sh/resource-policy" "keep") .Values.commonAnnotations) | nindent 4 }}
"""
_NAME = "  name: retraincycles.refrain.dev\n"


def crd_template(*, condition: str = "") -> str:
    """The definition as a chart's template: kept when the release goes, with the chart's labels and annotations."""
    text = crd_yaml()
    if text.count(_NAME) != 1 or "{{" in text:
        raise SystemExit(
            "the CustomResourceDefinition is no longer what tests/tools/chart_files.py makes a template of"
        )
    text = text.replace(_NAME, _NAME + _KEEP)
    return f"{{{{- if {condition} }}}}\n{text}{{{{- end }}}}\n" if condition else text


def rules(rights: tuple[tuple[str, str, tuple[str, ...]], ...]) -> str:
    """Rules of a Role, one a line."""
    lines = [
        f'- {{apiGroups: ["{group}"], resources: [{resource}], verbs: [{", ".join(verbs)}]}}'
        for group, resource, verbs in rights
    ]
    return "\n".join(["# Generated from controller/serving.py by `make generate`.", *lines]) + "\n"


def values_table(values: str) -> str:
    """Every value of a chart with its default and what its comment says."""
    root = yaml.compose(values, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    return "\n".join(["| value | default | |", "|---|---|---|", *_rows(root, values.splitlines(), "")])


def _rows(mapping: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[str]:
    for key, value in mapping.value:
        name, line = f"{prefix}{key.value}", key.start_mark.line
        said = _comment(lines, line)
        is_group = isinstance(value, yaml.MappingNode) and value.value and "\n" in _source(value, lines)
        if is_group and any(_comment(lines, inner.start_mark.line) for inner, _ in value.value):
            yield f"| **`{name}`** | | {said} |"
            yield from _rows(value, lines, f"{name}.")
        else:
            if not said:
                raise SystemExit(f"values.yaml, line {line + 1}: {name} has no comment")
            yield f"| `{name}` | {_default(value)} | {said} |"


def _source(value: yaml.Node, lines: list[str]) -> str:
    return "\n".join(lines[value.start_mark.line : value.end_mark.line + 1])


def _comment(lines: list[str], line: int) -> str:
    said: list[str] = []
    while line and (found := re.fullmatch(r"\s*# ?(.*)", lines[line - 1])):
        said.insert(0, found[1])
        line -= 1
    return " ".join(said).replace("|", "\\|")


def _default(value: yaml.Node) -> str:
    loaded = yaml.SafeLoader("")
    said = loaded.construct_object(value, deep=True)  # type: ignore[no-untyped-call]
    if said in ("", {}, [], None):
        return ""
    if isinstance(said, str):
        return f"`{said}`"
    return f"`{yaml.safe_dump(said, default_flow_style=True, width=1000).strip().removesuffix('...').strip()}`"


def chart_files(root: Path) -> dict[Path, str]:
    """The generated files of both charts."""
    charts = root / "charts"
    return {
        charts / "refrain-crds/templates/retraincycles.yaml": crd_template(),
        charts / "refrain/templates/crd.yaml": crd_template(condition=".Values.crds.enabled"),
        charts / "refrain/files/controller-rules.yaml": rules(RIGHTS),
        charts / "refrain/files/inference-rules.yaml": rules(INFERENCE_RIGHTS),
        charts / "refrain/files/train-job-rules.yaml": rules(TRAIN_JOB_RIGHTS),
        charts / "refrain/values.schema.json": values_schema((charts / "refrain/values.yaml").read_text()),
    }
