"""The page of the experiments: benchmarks/experiments.md, a section for each, replaced when it is run again."""

from __future__ import annotations

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1]
sys.path.append(str(BENCHMARKS))

from report import replace_section  # noqa: E402 - a script of another folder

RESULTS = BENCHMARKS / "experiments.md"
_HEAD = """\
# Experiments

Written by `make experiments`, each section by a script of benchmarks/experiments that says how.
"""


def write_experiment(name: str, section: str) -> None:
    """Put an experiment's section into the page; those of the others stay."""
    replace_section(RESULTS, _HEAD, name, section)
