"""The commands of README.md and of the pages in docs/, run as a reader would run them, and their output compared.

In a ```console block a line that starts with `$ ` is a command, which a backslash continues; the
lines up to the next one are what it prints, where `...` stands for anything.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@dataclass
class Step:
    command: str
    expected: list[str] = field(default_factory=list)


ON_A_CLUSTER = {"crd.md", "operate.md", "operator.md"}
"""Their commands are run beside the tests of what they are about."""
PAGES = [
    ROOT / "README.md",
    *(page for folder in ("docs", "charts", "examples") for page in sorted((ROOT / folder).rglob("*.md"))),
]
WITH_COMMANDS = [page for page in PAGES if "```console" in page.read_text() and page.name not in ON_A_CLUSTER]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def steps(page: Path) -> list[Step]:
    found: list[Step] = []
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.replace("\\\n", "").splitlines():
            if line.startswith("$ "):
                found.append(Step(line[2:]))
            else:
                found[-1].expected.append(line)
    return found


def pattern(expected: list[str]) -> str:
    """What the lines say, `...` as anything; more may follow."""
    return r"\s*".join(re.escape(line).replace(r"\.\.\.", "(?s:.*?)") for line in expected)


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name)
def test_the_commands_of_a_page_do_what_it_says(page, tmp_path):
    found = steps(page)
    assert len(found) >= (10 if page.name == "README.md" else 3)
    for name in ("examples", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    script = tmp_path / "readme.sh"
    lines = ["set -eu", "exec 2>&1", "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT"]
    for number, step in enumerate(found):
        lines += [f"printf '\\n== {number}\\n'", step.command]
    script.write_text("\n".join(lines))
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    run = subprocess.run(
        ["bash", script],
        cwd=tmp_path,
        env=environment,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    printed = re.split(r"^== \d+\n", run.stdout, flags=re.MULTILINE)[1:]
    assert run.returncode == 0, run.stdout[-2000:]
    assert len(printed) == len(found)
    for step, output in zip(found, printed, strict=True):
        assert re.match(pattern(step.expected), output), f"{step.command}\nprints:\n{output}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text())
    assert links or page != ROOT / "README.md"
    targets = [(page.parent / path if path else page, heading) for path, heading in links]
    assert [str(path) for path, _ in targets if not path.exists()] == []
    assert [f"{path}#{heading}" for path, heading in targets if heading and heading not in headings(path)] == []


def headings(page: Path) -> set[str]:
    """What a link may name behind its #, as GitHub makes it of the headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_files_that_it_names_are_there():
    """All but those of stages that it says are not there yet."""
    rows = re.findall(r"^\| .* \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    named = [path for row in rows if "not yet" not in row for path in re.findall(r"`((?:jobs|examples)/[\w./]+)`", row)]
    assert len(named) >= 8
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_each_alert_has_its_line_in_the_runbook():
    files = sorted((ROOT / "charts/refrain/files").glob("*alerts.yaml"))
    alerts = [name for file in files for name in re.findall(r"^- alert: (\w+)$", file.read_text(), re.MULTILINE)]
    assert alerts
    rows = re.findall(r"^\| (Refrain\w+) \|", (ROOT / "docs/operate.md").read_text(), re.MULTILINE)
    assert rows == alerts
