"""requirements.txt pins a version that fits for everything that pyproject.toml asks for, and carries no address.

    python tests/tools/check_requirements.py

Needs no network. Prints what does not fit and exits 1; `make requirements` is the cure.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def asked_for() -> list[Requirement]:
    """Every dependency of the core and of all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        lines += extra
    return [Requirement(line) for line in lines]


def pinned() -> dict[str, list[str]]:
    """Versions by package: more than one where they depend on the Python version."""
    versions: dict[str, list[str]] = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            (pin,) = requirement.specifier
            versions.setdefault(canonicalize_name(requirement.name), []).append(pin.version)
    return versions


def main() -> int:
    """Compare the two files; the exit code."""
    versions = pinned()
    misfits = [
        f"requirements.txt: {requirement} is not met by {', '.join(here) or 'anything'}"
        for requirement in asked_for()
        if not (here := versions.get(canonicalize_name(requirement.name), []))
        or not all(requirement.specifier.contains(version, prereleases=True) for version in here)
    ]
    for misfit in misfits:
        print(misfit, file=sys.stderr)
    if misfits:
        print("run `make requirements`", file=sys.stderr)
    return 1 if misfits else 0


if __name__ == "__main__":
    sys.exit(main())
