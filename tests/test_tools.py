"""The checks of `make check` see what they are there for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small repository with the tools in it."""
    (tmp_path / "tests").mkdir()
    for folder in ("tests/tools", "charts", "crds", "docs", "examples/operator"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements.txt", "README.md", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    return tmp_path


def run(checkout: Path, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, checkout / "tests" / "tools" / tool, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    "line",
    [
        "see /" + "home/ann/notes",
        "cd /" + "root/project",
        "pip install --" + "index-url https://example.org/simple refrain",
        "https://" + "pypi.org/" + "simple/refrain",
        "endpoint: http://1" + "0.0.3.17:9000",
        "endpoint: http://19" + "2.168.1.4:9000",
        "{checkout}/jobs",
    ],
)
def test_what_belongs_to_one_machine_is_found_in_any_file(checkout, line):
    assert run(checkout, "check_tracked_files.py").returncode == 0
    (checkout / "notes.md").write_text(f"fine\n{line.format(checkout=checkout)}\n")
    found = run(checkout, "check_tracked_files.py")
    assert found.returncode == 1
    assert found.stderr.startswith("notes.md:2: ")


@pytest.mark.parametrize(
    "line",
    ["127.0.0.1:9000", "192.0.2.17", "version 10.1.2", "s3://home/x", "~/.cache/refrain", "file:///folder", "/etc/x"],
)
def test_what_is_the_same_everywhere_is_let_be(checkout, line):
    (checkout / "notes.md").write_text(line)
    assert run(checkout, "check_tracked_files.py").returncode == 0


def test_a_lock_file_with_addresses_is_refused_and_an_ignored_file_is_not_looked_at(checkout):
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "notes").write_text("/" + "home/ann/")
    assert run(checkout, "check_tracked_files.py").returncode == 0
    (checkout / ("uv" + ".lock")).write_text("")
    assert "requirements.txt is the lock" in run(checkout, "check_tracked_files.py").stderr


def test_a_requirement_that_is_not_pinned_or_pinned_too_low_is_named(checkout):
    assert run(checkout, "check_requirements.py").returncode == 0
    project = (checkout / "pyproject.toml").read_text()
    (checkout / "pyproject.toml").write_text(project.replace('"numpy>=', '"leftpad", "numpy>=9'))
    found = run(checkout, "check_requirements.py")
    assert found.returncode == 1
    assert "requirements.txt: leftpad is not met by anything" in found.stderr
    assert "requirements.txt: numpy>=9" in found.stderr
    assert "run `make requirements`" in found.stderr


def test_a_stale_table_is_named_and_then_written(checkout):
    assert run(checkout, "generate.py", "--check").returncode == 0
    readme = checkout / "README.md"
    whole = readme.read_text()
    readme.write_text(whole.replace("| `parse` | Read mail", "| `parse` | Read post"))
    assert run(checkout, "generate.py", "--check").stderr == "README.md is stale: run `make generate`\n"
    assert run(checkout, "generate.py").stdout == "wrote README.md\n"
    assert readme.read_text() == whole
