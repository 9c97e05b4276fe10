"""Programs that end with the tests that started them, even where those are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from components import require

# As the last act before the program itself, in its own process: no fork of a test process with threads.
_LAUNCH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    sys.exit(137)
if sys.argv[2] == "first":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.execvpe(sys.argv[3], sys.argv[3:], os.environ)
"""


def binary(name: str) -> Path:
    """A program that `make test-servers` builds; the test is skipped where it lacks."""
    cache = Path(os.environ.get("REFRAIN_CACHE") or Path.home() / ".cache" / "refrain")
    path = cache / "bin" / name
    require(sys.platform == "linux", "a Kubernetes control plane needs Linux")
    require(os.access(path, os.X_OK), f"no {name}: {path} is not there (`make test-servers` builds it)")
    return path


def start(command: list[str], output: IO[bytes], *, as_first: bool = False, **options: Any) -> subprocess.Popen[bytes]:
    """Start a program that is killed as soon as the calling thread has ended, in a session of its own.

    `as_first`: as process 1 of a container, which SIGTERM does not end unless it handles it.
    """
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), "first" if as_first else "", *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        **options,
    )


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals, *, alone: bool = False) -> None:
    """Signal a program, alone or with what it has started, where it still runs."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            (os.kill if alone else os.killpg)(process.pid, number)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what a program that has ended left running."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
