"""The controller on a real API server: what it writes, how long it takes between two stages, what it holds."""

from __future__ import annotations

import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE.parents[1] / "tests")]

from rows._controller import Player, Stages, quantile  # noqa: E402

SIZE = "size.txt"
LEAST_WALKERS, WALKERS_SHARE = 30, 20
ENDS_PER_SECOND = 2.0
RESYNCS, RESYNC_SECONDS = 3, 30
LONG_SECONDS = 1800.0
RESYNC_SECONDS_WALKING = 120
WRITES, IDLE_WRITES = "API writes per stage", f"API writes in {RESYNCS} resyncs without a change"
GAP, HALF, OWN = "gap between two stages, p99", "p50", "p99 without the API server's time for our requests"
MEMORY, BURST = "resident memory of the controller", "seconds to all first Jobs"


@contextmanager
def _api_server(folder: Path) -> Iterator[Any]:
    """An API server and its etcd. The Job controller is played, and nobody else of the control plane is needed."""
    import signal

    from cluster import programs
    from cluster.control_plane import ControlPlane

    plane = ControlPlane(folder)
    try:
        plane.start()
        for name in ("kube-controller-manager", "kube-scheduler"):
            programs.signal_group(plane.programs[name], signal.SIGKILL)
        yield plane
    finally:
        plane.stop()


@dataclass
class Bench:
    """A namespace with live cycles, and such as walk from stage to stage."""

    plane: Any
    operator: Any
    player: Player
    live: list[str]
    walkers: list[str]

    def create(self) -> None:
        """All cycles, while no controller runs; each has an archive of its own."""

        def one(name: str) -> None:
            self.operator.create(name, archive=name, training={"nodes": 2})

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(one, [*self.live, *self.walkers]))

    def burst(self) -> float:
        """Seconds from the controller's start until every cycle's first Job has a pod."""
        begin = time.monotonic()
        self.operator.start()
        self._wait(lambda: self.player.num_started >= len(self.live) + len(self.walkers))
        return time.monotonic() - begin

    def walk(self) -> None:
        """Stages of the walkers end at random moments, until each cycle has come to its end."""
        chance = random.Random(42)
        left = dict.fromkeys(self.walkers, 10)
        at = time.monotonic()
        while left:
            at = max(time.monotonic(), at + chance.expovariate(ENDS_PER_SECOND))
            time.sleep(max(0.0, at - time.monotonic()))
            ready = [name for name in left if self.player.running[name]]
            if not ready:
                continue
            name = chance.choice(ready)
            self.player.end(name)
            left[name] -= 1
            if not left[name]:
                del left[name]
            self._check()
        self._wait(lambda: all(self.operator.status(name)["state"] == "Promoted" for name in self.walkers))

    def restart(self) -> float:
        """Seconds from the start of a new controller until it has looked at every cycle."""
        self.operator.kill()
        self.operator.settings["resyncSeconds"] = RESYNC_SECONDS
        begin = time.monotonic()
        self.operator.start()
        wanted = {*self.live, *self.walkers}
        self._wait(lambda: len({line.split('"')[1] for line in self._metric("refrain_cycles")}) >= len(wanted))
        return time.monotonic() - begin

    def settle(self) -> None:
        """Until the controller looks at nothing for a while, but for resyncs."""
        before = -1.0
        while before != (before := self._reconciles()):
            time.sleep(3)
            self._check()

    def stay(self, resyncs: int) -> None:
        """Let it look at everything so many times."""
        wanted = self._reconciles() + resyncs * (len(self.live) + len(self.walkers))
        self._wait(lambda: self._reconciles() >= wanted)

    def peak_bytes(self) -> float:
        """The most that the controller has held since it was started."""
        said = Path(f"/proc/{self.operator.process.pid}/status").read_text()
        return int(said.split("VmHWM:")[1].split()[0]) * 1024.0

    def _reconciles(self) -> float:
        return sum(float(line.split()[-1]) for line in self._metric("refrain_reconciles_total"))

    def _metric(self, name: str) -> list[str]:
        import urllib.request

        url = f"http://127.0.0.1:{self.operator.metrics_port}/metrics?name[]={name}"
        try:
            text = urllib.request.urlopen(url, timeout=30).read().decode()
        except OSError:  # it has only just been started
            return []
        return [line for line in text.splitlines() if line.startswith(f"{name}{{")]

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LONG_SECONDS
        while not condition():
            self._check()
            if time.monotonic() > deadline:
                raise TimeoutError(self.operator.said())
            time.sleep(0.25)

    def _check(self) -> None:
        if self.operator.process.poll() is not None:
            raise RuntimeError(f"the controller has ended: {self.operator.said()}")
        if self.player.errors:
            raise self.player.errors[0]


@contextmanager
def _bench(num_cycles: int, plane: Any, folder: Path) -> Iterator[Bench]:
    from cluster.api import Watch
    from controller_process import operator

    namespace = plane.new_namespace()
    player = Player(plane.user("kubelet"), namespace)
    live = [f"live-{number:04}" for number in range(num_cycles)]
    walkers = [f"walks-{number:04}" for number in range(max(LEAST_WALKERS, num_cycles // WALKERS_SHARE))]
    with operator(plane, namespace, folder, resyncSeconds=RESYNC_SECONDS_WALKING) as controller:
        arguments = controller.arguments
        controller.arguments = lambda: [word for word in arguments() if word != "--verbose"]  # as it runs in a cluster
        watch = Watch(player.api, "batch/v1/Job", namespace)
        threading.Thread(target=player.follow, args=(watch,), daemon=True).start()
        try:
            yield Bench(plane, controller, player, live, walkers)
        finally:
            watch.stop()


def _controlled() -> None:
    """The whole of it, on a control plane of its own."""
    num_cycles = int(Path(SIZE).read_text())
    with (
        tempfile.TemporaryDirectory() as scratch,
        _api_server(Path(scratch)) as plane,
        _bench(num_cycles, plane, Path.cwd()) as bench,
    ):
        since = plane.mark()
        bench.create()
        burst = bench.burst()
        bench.settle()
        bench.walk()
        held = bench.peak_bytes()
        figures = _of_the_audit_log(plane, since, bench)
        seconds = bench.restart()
        bench.settle()
        quiet = plane.mark()
        bench.stay(RESYNCS)
        figures[IDLE_WRITES] = len(plane.audit(quiet, user=bench.operator.user, writes=True))
        figures[MEMORY] = max(held, bench.peak_bytes())
    print(json.dumps({"seconds": seconds, BURST: burst, **figures}))


def _of_the_audit_log(plane: Any, since: int, bench: Bench) -> dict[str, float]:
    """What stages cost in writes, and how long one came behind the other."""
    plane.mark()  # all is written
    stages = Stages(bench.operator.user)
    with (plane.folder / "audit.log").open("rb") as log:
        log.seek(since)
        for event in map(json.loads, log):
            if event["stage"] == "ResponseComplete" and event["responseStatus"]["code"] < 400:
                stages.note(event)
    return {
        WRITES: stages.num_writes / stages.num_jobs,
        GAP: quantile(stages.gaps, 0.99),
        HALF: quantile(stages.gaps, 0.5),
        OWN: quantile(stages.own, 0.99),
    }


def _planned() -> None:
    """CPU seconds to plan cycles whose first Job is to be created, each from what the API server says."""
    from controller_world import START, World

    from controller.cycles import read_cycle
    from controller.observed import Observed
    from controller.plan import plan

    world = World()
    for number in range(int(Path(SIZE).read_text())):
        world.add(f"live-{number:04}", archive=f"live-{number:04}", training={"nodes": 2})
    for raw in world.cycles.values():
        cycle = read_cycle(raw)
        for action in plan(cycle, Observed((cycle,)), world.settings, START).actions:
            world.apply(action)
    begin = time.process_time()
    for raw in world.cycles.values():
        cycle = read_cycle(raw)
        planned = plan(cycle, Observed((cycle,)), world.settings, START)
        assert len(planned.actions) == 2, planned.actions
    print(json.dumps({"seconds": time.process_time() - begin}))


PROGRAMS: dict[str, Callable[[], None]] = {"controlled": _controlled, "planned": _planned}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]]()
    sys.exit()

from goals import Outcomes  # noqa: E402
from rows import Contestant, Row  # noqa: E402


@dataclass(frozen=True, slots=True)
class AtMost:
    """A figure that the program tells of itself."""

    most: float
    figure: str
    shown: Callable[[float], str]
    beside: tuple[str, ...] = ()
    """Figures that are told with it."""
    times: int = 10

    def judge(self, outcomes: Outcomes) -> tuple[bool, str]:
        """See `goals.Goal`."""
        found = outcomes[CONTROLLER][self.times]
        others = [f"{self.shown(found.figure(name))} {name}" for name in self.beside]
        beside = f" ({', '.join(others)})" if others else ""
        told = f"{self.figure}: {self.shown(found.figure(self.figure))}{beside}"
        at = f" at {self.times}×" if self.times > 1 else ""
        return found.figure(self.figure) <= self.most, f"{told}{at}, goal ≤ {self.shown(self.most)}"


@dataclass(frozen=True, slots=True)
class PlannedWithin:
    """How long the plans alone take."""

    most_seconds: float
    times: int = 10

    def judge(self, outcomes: Outcomes) -> tuple[bool, str]:
        """See `goals.Goal`."""
        seconds = outcomes[PLAN][self.times].seconds
        return seconds <= self.most_seconds, f"{PLAN}: {seconds:.2f} s at {self.times}×, goal ≤ {self.most_seconds:g} s"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms"


def _mebibytes(num: float) -> str:
    return f"{num / 2**20:,.0f} MiB"


def _number(value: float) -> str:
    return f"{value:.3g}"


def prepare(folder: Path, num_cycles: int) -> None:
    """How many there are to be."""
    (folder / SIZE).write_text(str(num_cycles))


def _program(name: str, folder: Path) -> list[str]:
    del folder
    return [sys.executable, __file__, name]


def _versions() -> str:
    from importlib.metadata import version

    return f"kopf {version('kopf')}, kubernetes {version('kubernetes')}"


CONTROLLER, PLAN = "all looked at once after a start", "`plan` alone, all first Jobs"

ROW = Row(
    title="The controller",
    unit="cycles",
    size=100,
    prepare=prepare,
    contestants=(
        Contestant(CONTROLLER, partial(_program, "controlled"), num_cpus=None),
        Contestant(PLAN, partial(_program, "planned")),
    ),
    goals=(
        AtMost(3, WRITES, _number),
        AtMost(0, IDLE_WRITES, _number),
        AtMost(0.1, GAP, _milliseconds, (HALF, OWN), times=1),
        AtMost(0.1, GAP, _milliseconds, (HALF, OWN)),
        PlannedWithin(2),
        AtMost(512 * 2**20, MEMORY, _mebibytes, times=1),
        AtMost(512 * 2**20, MEMORY, _mebibytes),
    ),
    versions=_versions,
    turns=1,
    note=(
        "A real API server; Jobs and pods are played by setting their statuses. Each cycle has an archive of its own. "
        f"A twentieth as many, and {LEAST_WALKERS} at least, go from stage to stage beside those that are counted, "
        f"whose first stage runs: {ENDS_PER_SECOND:g} stages end a second, at random moments, which is what 1,000 "
        "cycles of 83 minutes do; they train on two nodes. Writes are Jobs, Services and statuses, without Events. "
        "A gap is from the answer that completes a Job to the request that creates the next one, by the API server's "
        "audit log, and has all that this machine does besides in it. A start is that of a process, until it has "
        "looked at every archive. Plans are by CPU time. The table's memory is that of the API server, etcd and the "
        "player too; the controller's own is its high-water mark, with one Job and one pod for each cycle."
    ),
)
