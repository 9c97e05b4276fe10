"""Fixtures for all tests: the corpora beside the project, and the servers in tests/servers."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from components import require
from hypothesis import settings

# Below nohup a hangup is ignored, here and in all that tests start; they are about processes that hear it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Tests run beside each other: torch's threads would only wait for each other, spinning. Child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if os.environ.get("CI"):
    # What is searched at random at home is fixed there: a change is not stopped by somebody else's find.
    settings.register_profile("ci", derandomize=True, deadline=None)
    settings.load_profile("ci")

SERVERS = Path(__file__).parent / "servers"
pytest_plugins = [
    f"servers.{name}" for name in ("moto", "minio", "stores", "proxy", "dovecot") if (SERVERS / f"{name}.py").exists()
]
pytest_plugins += ["cluster.control_plane", "cluster.kubelet", "cluster.api_proxy"]


_LONG = (
    "test_crashes.py",
    "test_readme.py",
    "test_demo.py",
    "test_promotion.py",
    "test_operator.py",
    "test_operator_failures.py",
    "test_api_faults.py",
    "test_whole_cycles.py",
    "test_outages.py",
    "test_real_stages.py",
    "test_real_crashes.py",
)
"""Files that take minutes, the longest first: they are begun first, so that no processor waits for them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; all else as it was found."""
    items.sort(key=lambda item: _LONG.index(item.path.name) if item.path.name in _LONG else len(_LONG))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Figures that tests have recorded as `told`, wherever they ran: they are wanted, though nothing went wrong."""
    reports = (report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, []))
    lines = [text for report in reports for name, text in report.user_properties if name == "told"]
    if lines:
        terminalreporter.section("told by tests")
        terminalreporter.write("".join(f"{line}\n" for line in sorted(lines)))


CORPORA = Path(__file__).resolve().parents[2] / "shared" / "corpora"


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of real mail beside the project; the test is skipped where it is missing."""
    require(CORPORA.is_dir(), "no real mail: ../shared/corpora is not there")
    return CORPORA


@pytest.fixture
def limit_files() -> Iterator[Callable[[int], None]]:
    """From a call on no file of this process may have more bytes than that, as on a full disk; until the test ends."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda num_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


Refrain = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def refrain() -> Refrain:
    """Runs the real `refrain` command in a process of its own: `refrain("parse", path, env={…}, cwd=folder)`."""
    command = Path(sys.executable).with_name("refrain")

    def run(
        *arguments: object, env: dict[str, str] | None = None, **options: object
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [command, *map(str, arguments)],
            env={**os.environ, **(env or {})},
            check=False,
            capture_output=True,
            text=True,
            **options,
        )

    return run
