"""The demo's modules, which are scripts beside one another, and its mail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "demo"
sys.path.insert(0, str(DEMO))


@pytest.fixture(scope="session")
def mail(tmp_path_factory) -> Path:
    """A small archive: three older weeks, and three for cycles, of which the second is quiet."""
    from mail import archive, write

    folder = tmp_path_factory.mktemp("mail")
    older, cycles = archive(3, older=3, threads=20)
    write(folder, older, cycles)
    return folder
