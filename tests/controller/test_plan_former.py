"""What a promotion finds on the inference Deployment, and what is said where the record says another; no cluster."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from controller_world import KEPT, RESULTS, WINNER, World

from jobs.contracts.errors import TransientError

DIGESTS = {"w0": "f" * 64, "w1": WINNER, "w2": "b" * 64, "w3": "c" * 64}
DIFFERENT = {"RolledBackExternally", "RecordDiffers"}
LATE = timedelta(seconds=601)


def key(week: str) -> str:
    return f"cycles/{week}/train/checkpoints/step_4"


def value(week: str) -> str:
    return f"{key(week)}@{DIGESTS[week]}"


def adapter(week: str | None) -> Any:
    return week and {"adapter": key(week), "sha256": DIGESTS[week], "scores": {}}


def results(week: str, recorded: str | None) -> dict[str, Any]:
    """Of a cycle that has a winner, with what its select found on record."""
    select = RESULTS["select"] | {"candidate": adapter(week), "incumbent": adapter(recorded)}
    return RESULTS | {"select": select, "promote": RESULTS["promote"] | {"sha256": DIGESTS[week]}}


@pytest.fixture
def world() -> World:
    """It serves w1, which a promotion has brought."""
    world = World()
    world.deploy(former=value("w0"))
    promote(world, "w1", recorded="w0")
    return world


def promote(world: World, week: str, recorded: str | None) -> None:
    begin(world, week, recorded)
    world.roll_out()
    world.run(results(week, recorded))
    assert (world.status(week).state, world.serving()) == ("Promoted", value(week))


def begin(world: World, week: str, recorded: str | None) -> None:
    """A cycle whose candidate has been set, and is not verified yet."""
    world.add(week)
    world.run(results(week, recorded), until="promote")
    assert world.serving() == value(week)


def withhold(world: World, week: str) -> None:
    """Its pods do not get ready in time."""
    world.roll_out(ready=False)
    world.now += LATE
    world.settle()
    world.run(KEPT | {"select": results(week, None)["select"]})
    assert world.status(week).state == "NotPromoted"
    world.roll_out()


def said(world: World) -> list[tuple[str, str]]:
    return [(one.reason, one.message) for one in world.events.values() if one.reason in DIFFERENT]


SET = (
    f"serve serves {key('w0')}@{'f' * 16}, the record says {key('w1')}@{'a' * 16}: "
    "somebody set it; it is taken for the former adapter"
)


def test_undone_after_a_promotion_it_is_said_once_and_adopted(world: World) -> None:
    world.undo(value("w0"))
    world.roll_out()
    begin(world, "w2", recorded="w1")
    world.settle()
    assert said(world) == [("RolledBackExternally", SET)]
    assert world.status("w2").promotion.former == value("w0")
    assert world.condition("w2", "Promoted") == ("Unknown", "RollingOut", f"serve does not answer with it yet; {SET}")
    withhold(world, "w2")
    assert (world.serving(), len(said(world))) == (value("w0"), 1)


def test_undone_to_a_revision_that_was_being_recorded(world: World) -> None:
    """ReplicaSets keep the Deployment's annotations: that of the promotion of then comes back, and is nobody's."""
    promote(world, "w2", recorded="w1")
    marker = {"cycle": "uid-w1", "adapter": value("w1"), "former": value("w0"), "recording": True}
    world.undo(value("w1"), marker)
    world.settle()
    assert world.serving() == value("w1")
    promote(world, "w3", recorded="w2")
    assert ([reason for reason, _ in said(world)], world.deployment["metadata"]["annotations"]) == (
        ["RolledBackExternally"],
        {},
    )


def test_what_stands_on_record_is_nothing_to_tell(world: World) -> None:
    promote(world, "w2", recorded="w1")
    assert said(world) == []


def test_nor_is_what_a_withheld_candidate_leaves(world: World) -> None:
    begin(world, "w2", recorded="w1")
    withhold(world, "w2")
    promote(world, "w3", recorded="w1")
    assert said(world) == []


def test_nor_is_a_release_that_was_installed_again(world: World) -> None:
    world.deploy()
    promote(world, "w2", recorded="w1")
    assert (said(world), world.status("w2").promotion.former) == ([], "")


@pytest.mark.parametrize("recorded", ["w1", None])
def test_nor_is_anything_where_pods_are_swapped(recorded: str | None) -> None:
    world = World()
    world.deploy(mode="Swap", former=value("w0"))
    world.add("w2")
    world.run(results("w2", recorded))
    assert (world.status("w2").state, said(world)) == ("Promoted", [])


def test_nor_is_its_own_candidate_that_a_cut_off_promotion_has_left(world: World) -> None:
    begin(world, "w2", recorded="w1")
    world.roll_out()
    world.settle()
    for _ in range(2):  # promote, then whoever asks what became of it
        world.fail(TransientError("the store does not answer"), reason="BackoffLimitExceeded")
        world.settle()
    assert (world.status("w2").state, world.serving()) == ("Failed", value("w2"))
    assert world.condition("w2", "Succeeded")[:2] == ("False", "ResultUnknown")  # type: ignore[index]
    world.annotate("w2", retry="1")
    world.run(results("w2", "w1"))
    assert (world.status("w2").state, said(world)) == ("Promoted", [])


@pytest.mark.parametrize(("recorded", "shown"), [("w0", f"{key('w0')}@{'f' * 16}"), (None, "the bare base model")])
def test_a_record_that_was_taken_back_elsewhere_was_no_person_at_the_deployment(
    world: World, recorded: str | None, shown: str
) -> None:
    """`refrain promote --rollback`, and nobody took the annotation away."""
    begin(world, "w2", recorded)
    served = f"serve serves {key('w1')}@{'a' * 16}, the record says {shown}"
    message = f"{served}: as the controller set it last; it is taken for the former adapter"
    assert said(world) == [("RecordDiffers", message)]
    assert world.status("w2").promotion.former == value("w1")


def test_the_bare_base_model_by_hand(world: World) -> None:
    world.undo("@")
    begin(world, "w2", recorded="w1")
    ((reason, message),) = said(world)
    assert reason == "RolledBackExternally"
    assert message.startswith(f"serve serves the bare base model, the record says {key('w1')}@")


def test_the_bare_base_model_by_hand_and_on_record(world: World) -> None:
    world.undo("@")
    begin(world, "w2", recorded=None)
    assert said(world) == []


def test_changed_by_hand_behind_the_announcement(world: World) -> None:
    world.add("w2")
    world.run(results("w2", "w1"), until="select")
    world.succeed(results("w2", "w1"))
    world.look()
    assert (world.status("w2").promotion.phase, said(world)) == ("Announced", [])
    world.undo(value("w0"))
    world.settle()
    assert said(world) == [("RolledBackExternally", SET)]
    assert (world.status("w2").promotion.former, world.serving()) == (value("w0"), value("w2"))
