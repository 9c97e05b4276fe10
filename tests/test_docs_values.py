"""The YAML of the pages in docs/: values that the chart takes, cycles that can be read.

A ```yaml block whose first line is `# values.yaml` is rendered by Helm over the chart's own values, and what it makes
is read as the controller and the API server would; one that begins with `# cycle.yaml` is read as a cycle.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.programs import binary

from controller.cli.scheduling import filled, scheduled_at, words_of, zone_of
from controller.settings import load_settings
from jobs.contracts.cycle import RetrainCycle, load_cycle

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "refrain"
NEEDED = {"image": {"registry": "registry.example/team"}, "store": {"url": "s3://refrain"}}
"""What the chart refuses to do without; a page need not say it each time."""


def blocks(title: str) -> list[Any]:
    """Every block of that first line, as a parameter named by its page and number."""
    found = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        texts = re.findall(rf"```yaml\n# {re.escape(title)}\n(.*?)```", page.read_text(), re.DOTALL)
        found += [pytest.param(text, id=f"{page.stem}-{number}") for number, text in enumerate(texts)]
    return found


VALUES, CYCLES = blocks("values.yaml"), blocks("cycle.yaml")


def test_there_are_some():
    assert len(VALUES) >= 5


@pytest.mark.parametrize("text", VALUES)
def test_a_pages_values_are_those_of_the_chart(text):
    assert list(unknown(yaml.safe_load(text), yaml.safe_load((CHART / "values.yaml").read_text()), "")) == []


def unknown(said: Any, known: Any, path: str) -> list[str]:
    """Names in a page's values that the chart's do not have; below what is empty there, anything may be."""
    if not isinstance(said, dict) or not isinstance(known, dict) or not known:
        return []
    missing = [f"{path}{name}" for name in said if name not in known]
    return missing + [
        one for name in said if name in known for one in unknown(said[name], known[name], f"{path}{name}.")
    ]


@pytest.mark.parametrize("text", VALUES)
def test_what_the_chart_makes_of_them_can_be_read(text, tmp_path):
    (tmp_path / "needed.yaml").write_text(yaml.safe_dump(NEEDED))
    (tmp_path / "values.yaml").write_text(text)
    files = [f"--values={tmp_path / name}" for name in ("needed.yaml", "values.yaml")]
    command = [binary("helm"), "template", "refrain", CHART, "--namespace=mail", "--kube-version=1.35", *files]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    objects = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(run.stdout) if one}
    config = tmp_path / "config.yaml"
    config.write_text(objects["ConfigMap", "refrain-controller"]["data"]["config.yaml"])
    assert load_settings(config).namespace == "mail"
    if ("ConfigMap", "refrain-schedule") in objects:
        template = yaml.safe_load(objects["ConfigMap", "refrain-schedule"]["data"]["template.yaml"])
        words = words_of(scheduled_at("2026-11-23T03:00", None, zone_of("Etc/UTC")))
        assert RetrainCycle.model_validate(filled(template, words, where="template"))


@pytest.mark.parametrize("text", CYCLES)
def test_a_pages_cycle_can_be_read(text, tmp_path):
    path = tmp_path / "cycle.yaml"
    path.write_text(text)
    assert load_cycle(path)


def test_what_pages_set_on_the_command_line_are_values_of_the_chart():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "charts").rglob("*.md")]
    said = {name for page in pages for name in re.findall(r"--set(?:-\w+)?[ =]([\w.]+)=", page.read_text())}
    assert len(said) >= 4
    known = yaml.safe_load((CHART / "values.yaml").read_text())
    assert [name for name in sorted(said) if not has(known, name.split("."))] == []


def test_the_readmes_command_installs_something():
    (command,) = re.findall(r"^helm install refrain charts/refrain (.*)", joined(ROOT / "README.md"), re.MULTILINE)
    arguments = [word for word in shlex.split(command) if word != "--create-namespace"]
    run = subprocess.run(
        [binary("helm"), "template", "refrain", CHART, "--kube-version=1.35", *arguments],
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "image: registry.example/team/refrain-controller:" in run.stdout


def joined(page: Path) -> str:
    """Its text, with each command on one line."""
    return page.read_text().replace("\\\n", "")


def has(known: Any, path: list[str]) -> bool:
    """Whether there is such a value; below what is empty there, anything may be."""
    for name in path:
        if known == {}:
            return True
        if not isinstance(known, dict) or name not in known:
            return False
        known = known[name]
    return True


def test_values_that_pages_speak_of_are_those_of_the_chart():
    """`inference.swapToken.existingSecret` and the like, where the first word is a group of values."""
    known = yaml.safe_load((CHART / "values.yaml").read_text())
    groups = [name for name, value in known.items() if isinstance(value, dict) and value and name not in AMBIGUOUS]
    pattern = rf"`((?:{'|'.join(groups)})(?:\.\w+)+)(?:[:`])"
    pages = [
        ROOT / "docs" / f"{page}.md" for page in ("install", "upgrade", "security", "gitops", "air-gapped", "sizing")
    ]
    said = {name for page in pages for name in re.findall(pattern, page.read_text())} - {"ca.crt"}
    assert len(said) >= 20
    assert [name for name in sorted(said) if not has(known, name.split("."))] == []


AMBIGUOUS = {"store", "mail", "model"}
"""Fields of a cycle, and settings of the controller, begin so too."""
