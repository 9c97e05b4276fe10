"""The loop by itself: in which order archives are looked at, and what holds up what."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from datetime import datetime
from typing import Any

import pytest
from controller_world import World

from controller import reconciler as module
from controller.actions import SetAdapter
from controller.api import ApiError
from controller.reconciler import Reconciler
from controller.settings import Settings


class Looking(Reconciler):
    """Looks at nothing, and remembers at what."""

    looked: list[str]
    gate: threading.Event

    def reconcile(self, archive: str) -> datetime | None:
        self.looked.append(archive)
        self.gate.wait(10)
        return None


class Refusing:
    """Of the API what writes need: the Deployment may not be changed, all else is taken, and noted."""

    def __init__(self) -> None:
        self.written: list[str] = []

    def create(self, kind: str, manifest: Any) -> Any:
        self.written.append(kind)
        return manifest | {"metadata": manifest["metadata"] | {"uid": "u"}}

    def apply(self, kind: str, name: str, manifest: Any, **how: Any) -> Any:
        if kind == "deployments":
            raise ApiError(403, "Forbidden", "not on Fridays")
        self.written.append(f"{kind}/{name}")
        return manifest


def test_a_deployment_that_may_not_be_changed_holds_up_no_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deleted cycle has left its promotion there, which cannot be taken back: that is told, and the next one runs."""
    world, api = World(), Refusing()
    world.deploy(former="x@1")
    world.add("w2")
    world.look()
    world.apply(SetAdapter("x@1", {"cycle": "gone", "adapter": "x@1", "former": "y@2"}))
    monkeypatch.setattr(module, "observe", lambda *_: world.observed())
    made = Reconciler(api, lambda: world.settings, world.settings)  # type: ignore[arg-type]
    for number in (1, 2):
        with pytest.raises(ApiError, match="not on Fridays"):
            made.reconcile("workshop")
        assert api.written.count("jobs") == number, "the stage is begun"
        assert "retraincycles/w2" in api.written


def run(archives: list[str], then: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The order of looks: at the archives as a matter of routine, with events while the first are looked at."""
    settings = Settings(namespace="mail")
    made = Looking(None, lambda: settings, settings)  # type: ignore[arg-type]
    made.looked, made.gate = [], threading.Event()
    monkeypatch.setattr(module, "archives", lambda api: archives)

    async def work() -> None:
        task = asyncio.create_task(made.run())
        while len(made._waiting) + len(made._working) < len(archives):
            await asyncio.sleep(0.01)
        for archive in then:
            made.mark(archive)
        while not made._changed.empty() or len(made.looked) < len(made._working):
            await asyncio.sleep(0.01)
        made.gate.set()
        while len(made.looked) < len({*archives, *then}) or made._waiting or made._working:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(work(), 30))
    return made.looked


def test_what_has_changed_waits_for_no_routine(monkeypatch: pytest.MonkeyPatch) -> None:
    archives = [f"a{number}" for number in range(50)]
    looked = run(archives, ["a49", "new"], monkeypatch)
    assert {*looked[:4]} == {"a0", "a1", "a49", "new"}
    assert Counter(looked) == Counter([*archives, "new"])


def test_a_round_over_many_archives_takes_no_longer_than_the_time_between_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the liveness probe, which takes three times that for too long, would have the controller restarted."""
    settings = Settings(namespace="mail", resync_seconds=1)
    made = Looking(None, lambda: settings, settings)  # type: ignore[arg-type]
    made.looked, made.gate = [], threading.Event()
    made.gate.set()
    listed: list[float] = []

    def archives(_: Any) -> list[str]:
        listed.append(time.monotonic())
        return [f"a{number}" for number in range(100)]

    monkeypatch.setattr(module, "archives", archives)

    async def work() -> None:
        task = asyncio.create_task(made.run())
        while len(listed) < 3:
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(work(), 30))
    assert listed[2] - listed[1] < 6, "two seconds; with a tenth of a second for each archive it would be eleven"


def test_an_archive_that_changes_while_it_is_looked_at_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Counter(run(["a0", "a1", "a2"], ["a0"], monkeypatch)) == {"a0": 2, "a1": 1, "a2": 1}


class Refused(Reconciler):
    """Is told to wait at its first looks, and remembers when it looked."""

    looked: list[float]
    refusals: list[ApiError]

    def reconcile(self, archive: str) -> datetime | None:
        self.looked.append(time.monotonic())
        if self.refusals:
            raise self.refusals.pop()
        return None


def test_what_the_api_server_asks_to_wait_is_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the archive changes meanwhile. The back-off of other errors an event may cut short."""
    settings = Settings(namespace="mail")
    made = Refused(None, lambda: settings, settings)  # type: ignore[arg-type]
    made.looked = []
    made.refusals = [ApiError(500, "InternalError", "once"), ApiError(429, "TooManyRequests", "busy", retry_after=2.5)]
    monkeypatch.setattr(module, "archives", lambda api: [])

    async def work() -> None:
        task = asyncio.create_task(made.run())
        while len(made.looked) < 3:
            made.mark("a0")
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(work(), 30))
    first, second, third = made.looked
    assert second - first >= 2.5
    assert third - second < 1.9, "the back-off would be 2 s"
