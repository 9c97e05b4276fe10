"""Processes that tests kill, forked from a server that has imported what is heavy and runs nothing itself.

A fork of the test's own process would share what its libraries have made by then. Among that is tqdm's
lock, a semaphore of the system: a child that is killed while it holds it leaves it taken for all later
ones, which hang before they write anything.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

    from servers.proxy import FaultProxy

SECONDS = 60
forked = multiprocessing.get_context("forkserver")
"""Functions that run in its processes, and their arguments, are pickled: they stand at a module's top."""
forked.set_forkserver_preload(
    [
        *("boto3", "lxml.etree", "pyarrow.parquet", "tokenizers", "jobs.local.session", "jobs.stages.sample"),
        *("splitting", "controller.serving"),
    ]
)


def begun(work: Callable[..., Any], *arguments: Any) -> ForkServerProcess:
    """A process that has been started on it, with this one's environment."""
    child = forked.Process(target=_work, args=(dict(os.environ), work, arguments))
    child.start()
    return child


def _work(environment: dict[str, str], work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    work(*arguments)


def ended(child: ForkServerProcess, seconds: float = SECONDS) -> int:
    """The exit code of a process, negative where a signal has ended it; AssertionError where it hangs."""
    child.join(seconds)
    if child.exitcode is None:
        child.kill()
        child.join()
        raise AssertionError(f"process {child.pid} did not end within {seconds} s")
    return child.exitcode


def run(work: Callable[..., Any], *arguments: Any, seconds: float = SECONDS) -> int:
    """Do it in a process of its own; the exit code."""
    return ended(begun(work, *arguments), seconds)


def run_as_victim(proxy: FaultProxy, work: Callable[..., Any], *arguments: Any) -> int:
    """Do it in a process that the proxy may kill at a write; the exit code."""
    proxy.writes.clear()
    proxy.victim = None
    child = begun(work, *arguments)
    proxy.victim = child.pid
    return ended(child)
