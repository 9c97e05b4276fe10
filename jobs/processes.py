"""Work shared among processes, in the order of the work; a worker that dies is an error. And being told to stop."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from jobs.contracts.errors import TransientError

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What tells a process to stop: a scheduler, Ctrl-C, a terminal that is closed."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def shared(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    start: Callable[..., None],
    told: tuple[Any, ...],
) -> Iterator[tuple[Item, Result]]:
    """Each item and what `work` makes of it in one of several new processes, in order.

    At most a few items for each worker are read ahead of what is taken. `start(*told)` is called once in each
    worker. Raises what `work` raises, and TransientError where a worker was killed, as by a lack of memory.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start, (start, told)) as pool:
        pending: deque[tuple[Item, Future[Result]]] = deque()
        try:
            for item in items:
                pending.append((item, pool.submit(work, item)))
                if len(pending) > 3 * workers:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        except BrokenProcessPool as error:
            raise TransientError(
                "a process was killed, perhaps because memory ran out", hint="run it again, with --workers 1"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def num_cpus(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """CPUs that this process may use: of those of its affinity no more than its container's share comes to.

    A share is a quota of time, as `limits.cpu` of a pod sets one (cgroups of version 2 and 1); its last fraction
    counts as a whole CPU.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min([allowed, *_cpu_shares(cgroups, own)])))


def _cpu_shares(cgroups: Path, own: Path) -> Iterator[float]:
    """The shares of the groups that this process is in, and of those around them."""
    for line in _words(own, "\n"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            yield from (_share(_words(folder / "cpu.max")) for folder in _upwards(cgroups, path))
        elif "cpu" in controllers.split(","):
            for folder in _upwards(cgroups / "cpu", path):
                yield _share(_words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us"))


def _share(words: list[str]) -> float:
    """Quota / period; infinite where none is set."""
    if len(words) != 2 or not all(word.isdecimal() for word in words) or not int(words[1]):
        return math.inf
    return int(words[0]) / int(words[1])


def _words(path: Path, separator: str | None = None) -> list[str]:
    """What a file of the kernel's says; nothing where there is none."""
    try:
        return path.read_text().split(separator)
    except OSError:
        return []


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """A group's folder and those above it; in a container the path may be the host's, and the root is all there is."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return (root.joinpath(*parts[:length]) for length in range(len(parts), -1, -1))


def _start(start: Callable[..., None], told: tuple[Any, ...]) -> None:
    """Leave Ctrl-C to the parent, and end when it ends, however that happens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    start(*told)


@contextmanager
def stop_noticed(tell: Callable[[], object]) -> Iterator[Sequence[int]]:
    """The signals that have told this process to stop since the block began; `tell` answers the first Ctrl-C.

    The second one stops at once, as Ctrl-C does elsewhere. A signal that is ignored (nohup) stays so. Handlers are
    set for good reason even where nobody kills: the first process of a container has none.
    """
    told: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield told
        return

    def notice(number: int, _frame: object) -> None:
        told.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            tell()

    before = {one: signal.getsignal(one) for one in STOPPING}
    for one, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(one, notice)
    try:
        yield told
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
