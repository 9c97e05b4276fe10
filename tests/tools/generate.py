"""The generated parts of the repository, made from the code that they describe.

    python tests/tools/generate.py            write them
    python tests/tools/generate.py --check    exit 1 where one is stale

Tables of README.md, docs/ and charts/ stand between `<!-- name -->` and `<!-- /name -->`; the
CustomResourceDefinition and the controller's Role are files of their own.
"""

from __future__ import annotations

import copy
import functools
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import yaml
from chart_files import chart_files, values_table
from pydantic import BaseModel
from reference import (
    alerts_table,
    controller_table,
    rights_table,
    serve_table,
    spec_fields,
    spec_rules,
    stage_sections,
    stages_table,
    status_fields,
    train_table,
)

from controller.cli import advice
from controller.crd import CRD_FILE, crd_yaml
from controller.serving import INFERENCE_RIGHTS, RIGHTS
from controller.settings import Settings, SettingsModel
from jobs.cli import COMMANDS
from jobs.contracts.artifacts import ARTIFACTS
from jobs.contracts.errors import RefrainError
from jobs.contracts.stages import STAGES

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "charts" / "refrain" / "files"
ALERTS = ("alerts.yaml", "inference-alerts.yaml")


def stage_table() -> str:
    """The ten stages: what each does, reads and writes."""
    rows = ["| stage | does | reads | writes |", "|---|---|---|---|"]
    for stage in STAGES:
        kinds = [*stage.reads, *(["incumbent"] if stage.reads_incumbent else [])]
        reads = ", ".join(kind.replace("_", " ") for kind in kinds) or "mail"
        writes = ", ".join(f"`{ARTIFACTS[kind].filename}`" for kind in stage.writes)
        rows.append(f"| `{stage.name}` | {stage.summary} | {reads} | {writes} |")
    return "\n".join(rows)


def command_table() -> str:
    """Every command of the package jobs."""
    rows = ["| command | |", "|---|---|"]
    return "\n".join([*rows, *(f"| `refrain {name}` | {summary} |" for name, summary in COMMANDS.items())])


def exit_code_table() -> str:
    """Exit codes and what they mean, by number."""
    rows = {0: "done", 1: "a defect: please report it"}
    pending = [RefrainError]
    while pending:
        cls = pending.pop()
        pending += cls.__subclasses__()
        if "exit_code" in vars(cls) and cls is not RefrainError:
            rows[cls.exit_code] = f"{str(cls.__doc__).splitlines()[0].rstrip('.')} (`{cls.__name__}`)"
    lines = [f"| {code} | {meaning} |" for code, meaning in sorted(rows.items())]
    return "\n".join(["| code | meaning |", "|---|---|", *lines])


def reason_tables() -> str:
    """Every reason of a condition, what it means and what to do."""
    return "\n".join(advice.page()).rstrip()


def settings_table() -> str:
    """The controller's settings, those of its parts with dots."""
    return "\n".join(["| setting | default | |", "|---|---|---|", *_settings_rows(Settings)])


def _settings_rows(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        said = f"{prefix}{field.alias or name}"
        inner = next((one for one in (field.annotation, *get_args(field.annotation)) if _is_part(one)), None)
        text = " ".join(str(field.description).split())
        yield f"| `{said}` | {_default(field, is_part=inner is not None)} | {text} |"
        if inner is not None:
            yield from _settings_rows(inner, f"{said}.")


def _is_part(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, SettingsModel)


def _default(field: FieldInfo, *, is_part: bool) -> str:
    if field.is_required():
        return "required"
    if is_part or field.default in (None, "", [], {}):
        return ""
    value = field.default
    shown = value.model_dump(by_alias=True, exclude_defaults=True) if isinstance(value, BaseModel) else value
    return f"`{json.dumps(shown)}`".replace('`"', "`").replace('"`', "`")


def chart_values(chart: str) -> str:
    """The values of a chart, as its values.yaml has them."""
    return values_table((ROOT / "charts" / chart / "values.yaml").read_text())


def rbac_yaml() -> str:
    """The Role of exactly the rights that the controller uses, with its account."""
    rules = [
        {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}
        for group, resource, verbs in RIGHTS + INFERENCE_RIGHTS
    ]
    name, group = {"name": "refrain-controller"}, "rbac.authorization.k8s.io"
    documents = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": name},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": name, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": name,
            "roleRef": {"apiGroup": group, "kind": "Role", **name},
            "subjects": [{"kind": "ServiceAccount", **name}],
        },
    ]
    head = "# Generated from controller/serving.py by `make generate`: just the rights that the controller uses.\n"
    return head + yaml.dump_all(copy.deepcopy(documents), Dumper=_NoAliases, sort_keys=False)


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, _data: object) -> bool:
        return True


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"stages": stage_table, "commands": command_table, "exit-codes": exit_code_table},
    "docs/operate.md": {"reasons": reason_tables},
    "docs/operator.md": {"settings": settings_table},
    "docs/reference/cycle.md": {"fields": spec_fields, "rules": spec_rules, "status": status_fields},
    "docs/reference/metrics.md": {
        "controller": controller_table,
        "train": train_table,
        "serve": serve_table,
        "alerts": lambda: alerts_table("".join((FILES / name).read_text() for name in ALERTS)),
    },
    "docs/security.md": {"rights": rights_table},
    "docs/reference/stages.md": {"jobs": stages_table, "stages": stage_sections},
    "charts/refrain/README.md": {"values": functools.partial(chart_values, "refrain")},
    "charts/refrain-crds/README.md": {"values": functools.partial(chart_values, "refrain-crds")},
}
"""Pages, and what stands in each."""


def with_tables(page: str, text: str) -> str:
    """A page's text with every marked table made anew."""
    for name, table in PAGES[page].items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{page}: no place marked for the table {name!r}")
        text = pattern.sub(lambda match, table=table: f"{match[1]}{table()}\n{match[2]}", text)
    return text


def generated() -> dict[Path, str]:
    """Every generated file with its contents as they should be."""
    pages = {ROOT / page: with_tables(page, (ROOT / page).read_text()) for page in PAGES}
    files = {ROOT / CRD_FILE: crd_yaml(), ROOT / "examples/operator/rbac.yaml": rbac_yaml()}
    return pages | files | chart_files(ROOT)


def main(arguments: list[str]) -> int:
    """Write what differs, or with --check only name it; the exit code."""
    stale = [(path, text) for path, text in generated().items() if not path.exists() or path.read_text() != text]
    for path, text in stale:
        if "--check" in arguments:
            print(f"{path.relative_to(ROOT)} is stale: run `make generate`", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
