"""Tracked files hold nothing of the machine they were written on: no paths, no registries, no addresses.

    python tests/tools/check_tracked_files.py

Prints each finding as file:line and exits 1 where there is one. Patterns are spelt so that this
file does not match them.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PATTERNS = {
    "a path of somebody's machine": re.compile(
        r"(?<![\w.$~{}/-])/(?:home|Users)/[a-z][\w.-]*/|(?<![\w.$~{}/-])/[r]oot/"
    ),
    "a package registry or index": re.compile(
        r"(?:[f]iles\.pythonhosted\.org|[p]ypi\.org/simple|[p]roxy\.golang\.org|[r]egistry\.npmjs\.org|[d]eb\.debian\.org"
        r"|--(?:[e]xtra-)?[i]ndex-url[ =]\S|--[f]ind-links[ =]\S)"
    ),
    "an address of a private network": re.compile(
        r"(?<![\d.])(?:1[0]\.\d{1,3}|17[2]\.(?:1[6-9]|2\d|3[01])|19[2]\.168)\.\d{1,3}\.\d{1,3}(?![\d.])"
    ),
}
FORBIDDEN_NAMES = {"uv" + ".lock": "it holds resolved addresses; requirements.txt is the lock"}


def tracked_files() -> list[Path]:
    """Every file that git knows of or would take, sorted."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return sorted({ROOT / name for name in names.split("\0") if name})


def own_places() -> re.Pattern[str]:
    """This checkout's own folder and the home of whoever runs this, as they would stand in a file."""
    places = {str(path) for path in (ROOT, ROOT.parent / "shared", Path.home()) if len(path.parts) > 2}
    return re.compile("|".join(re.escape(place) + r"(?![\w.-])" for place in sorted(places)) or r"(?!)")


def findings(path: Path, patterns: dict[str, re.Pattern[str]]) -> Iterator[str]:
    """What one file holds that it should not; binary files are passed over."""
    name = path.relative_to(ROOT)
    if path.name in FORBIDDEN_NAMES:
        yield f"{name}: {FORBIDDEN_NAMES[path.name]}"
    data = path.read_bytes()
    if b"\0" in data[:8192]:
        return
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        for what, pattern in patterns.items():
            if match := pattern.search(line):
                yield f"{name}:{number}: {what}: {match[0]}"


def main() -> int:
    """Check all tracked files; the exit code."""
    patterns = PATTERNS | {"a folder of this machine": own_places()}
    found = [line for path in tracked_files() if path.is_file() for line in findings(path, patterns)]
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
