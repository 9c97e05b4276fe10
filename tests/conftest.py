"""Fixtures for all tests: the corpora beside the project, and the servers in tests/servers."""

from __future__ import annotations

from pathlib import Path

import pytest
from components import require

SERVERS = Path(__file__).parent / "servers"
pytest_plugins = [
    f"servers.{name}" for name in ("moto", "minio", "proxy", "dovecot") if (SERVERS / f"{name}.py").exists()
]

CORPORA = Path(__file__).resolve().parents[2] / "shared" / "corpora"


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of real mail beside the project; the test is skipped where it is missing."""
    require(CORPORA.is_dir(), "no real mail: ../shared/corpora is not there")
    return CORPORA
