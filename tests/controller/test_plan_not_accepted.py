"""Plans of cycles that the controller does not accept, from the start or any more, without a cluster."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from controller_promotions import FORMER, SUCCEEDED, marker
from controller_world import World

from controller.settings import MailSettings

IMAP = [{"imap": "imaps://ann@mail.example/INBOX"}]


@pytest.fixture
def world() -> World:
    made = World()
    allow(made, "mail.example")
    return made


def allow(world: World, *hosts: str) -> None:
    world.settings = world.settings.model_copy(update={"mail": MailSettings(imap_hosts=list(hosts))})


def warnings(world: World) -> list[str]:
    return [event.reason for event in world.events.values() if event.is_warning]


def no_longer(world: World, **spec: Any) -> str:
    """A cycle in the middle of its training, whose mail server is not allowed any more; its Job."""
    world.add("w1", sources=IMAP, **spec)
    world.run(until="train")
    allow(world)
    world.settle()
    (job,) = world.running()
    return job


def test_one_that_waits_says_why_in_an_event(world: World) -> None:
    allow(world)
    world.add("w1", sources=IMAP)
    world.settle()
    assert (world.status("w1").state, warnings(world)) == ("Pending", ["MailHostNotAllowed"])
    (event,) = world.events.values()
    assert event.message == world.condition("w1", "Accepted")[2]  # type: ignore[index]
    world.edit("w1", sources=[{"mbox": "s3://mail/1.mbox"}])
    world.run()
    assert world.status("w1").state == "Promoted"


def test_one_that_has_begun_says_that_it_is_not_followed_and_goes_on_when_it_is(world: World) -> None:
    job = no_longer(world)
    assert (world.running(), warnings(world)) == ([job], ["MailHostNotAllowed"])
    truth, reason, message = world.condition("w1", "Progressing")  # type: ignore[misc]
    assert (truth, reason) == ("False", "MailHostNotAllowed")
    assert message.endswith("(mail.imapHosts); until then no further stage is begun")
    world.succeed()
    world.settle()
    assert world.running() == []
    allow(world, "mail.example")
    world.run()
    assert world.status("w1").state == "Promoted"


def test_it_can_be_suspended(world: World) -> None:
    no_longer(world)
    world.edit("w1", suspend=True)
    world.add("w2")
    world.settle()
    assert (world.status("w1").state, world.running()) == ("Suspended", [])
    assert world.condition("w1", "Progressing")[1] == "Suspended"  # type: ignore[index]
    assert world.condition("w2", "Progressing")[2] == "waits for w1, which is suspended"  # type: ignore[index]


def test_it_has_its_deadline(world: World) -> None:
    no_longer(world, deadlineSeconds=3600)
    world.add("w2")
    world.now += timedelta(hours=1)
    world.run()
    assert world.status("w1").state == "Failed"
    assert world.condition("w1", "Succeeded")[1] == "DeadlineExceeded"  # type: ignore[index]
    assert world.status("w2").state == "Promoted"


def test_what_cannot_be_read_holds_its_archive_and_says_so(world: World) -> None:
    world.add("w1", deadlineSeconds=3600)
    world.run(until="train")
    world.edit("w1", selection={"strategy": "Oracle"}, suspend=True)
    world.now += timedelta(hours=2)
    world.settle()
    assert len(world.running()) == 1
    assert world.condition("w1", "Progressing")[:2] == ("False", "InvalidSpec")  # type: ignore[index]


def test_a_roll_out_that_nobody_pursues_is_taken_back(world: World) -> None:
    world.deploy(former=FORMER)
    world.add("w1", sources=IMAP)
    world.run(SUCCEEDED)
    assert world.serving() != FORMER
    allow(world)
    world.settle()
    assert (world.serving(), marker(world)) == (FORMER, {})
    allow(world, "mail.example")
    world.settle()
    world.roll_out()
    world.run(SUCCEEDED)
    assert world.status("w1").state == "Promoted"
