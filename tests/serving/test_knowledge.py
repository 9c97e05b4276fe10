"""What answers draw on while a server runs: the newest index, without mail that has been erased since."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")

from serving.running import Inside, in_process
from serving.world import ASKED, add_index

if TYPE_CHECKING:
    from serving.world import World

CHANGED = 'refrain_refreshes_total{outcome="changed"}'


@pytest.fixture
def door(world: World) -> Iterator[Inside]:
    with in_process(world, served=world.served("a")) as inside:
        yield inside


def erase_all(world: World) -> None:
    for key in list(world.store.list("messages/")):
        world.store.delete(key)


def sources(door: Inside) -> set[str]:
    answer = door.client().chat.completions.create(model="refrain", messages=ASKED, max_tokens=1)
    return {one["message_id"] for one in answer.model_extra["refrain"]["sources"]}


def test_mail_that_is_erased_is_no_source_after_the_next_look(world: World, door: Inside) -> None:
    everything = sources(door)
    assert "who@x" in everything
    for gone, key in enumerate(sorted(world.store.list("messages/"))):
        world.store.delete(key)
        door.service.refresh()
        assert door.metric(CHANGED) == gone + 1
        left = sources(door)
        assert left < everything
        everything = left
        door.service.refresh()
        assert door.metric(CHANGED) == gone + 1, "once"
    assert everything == set()
    assert door.request("GET", "/readyz")[0] == 200


def test_also_where_the_cycle_after_it_has_a_smaller_name(world: World, door: Inside) -> None:
    """As a copy of the newest cycle's file may have, which trains once more on the same window."""
    erase_all(world)
    add_index(world, "a-copy")
    door.service.refresh()
    assert door.service.assistant.knowledge.cycle == "w1"
    assert sources(door) == set()


def test_also_of_a_cycle_that_was_named(world: World) -> None:
    with in_process(world, served=world.served("a"), cycle="w1") as door:
        assert sources(door)
        add_index(world, "w2")
        door.service.refresh()
        assert (door.metric(CHANGED), door.service.assistant.knowledge.cycle) == (0, "w1")
        erase_all(world)
        door.service.refresh()
        assert (door.metric(CHANGED), door.service.assistant.knowledge.cycle) == (1, "w1")
        assert sources(door) == set()


def test_also_where_no_index_is_left(world: World, door: Inside) -> None:
    for key in list(world.store.list("cycles/w1/")):
        world.store.delete(key)
    door.service.refresh()
    assert sources(door), "what has been read is enough"
    erase_all(world)
    door.service.refresh()
    assert sources(door) == set()
    assert (door.metric("refrain_index_passages"), door.request("GET", "/readyz")[0]) == (0, 200)
    add_index(world, "w2")
    door.service.refresh()
    assert door.service.assistant.knowledge.cycle == "w2"
