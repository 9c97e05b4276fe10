"""Plans of cycles that wait: for their turn, for admission, for a person; and that are stopped anywhere."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from controller_world import ALL, KEPT, RESULTS, WINNER, World

from controller.objects import written
from jobs.contracts.cycle.status import CycleStatus
from jobs.contracts.errors import InputError


def retry_behind_another(world: World, **spec: Any) -> None:
    """w1 has failed, and is retried while w2 trains."""
    world.add("w1", **spec)
    world.run(until="train")
    world.fail(InputError("no"))
    world.settle()
    world.add("w2")
    world.run(until="train")
    world.annotate("w1", retry="1")
    world.settle()


class TestAdmission:
    def test_a_job_that_kueue_holds_is_queued(self, world: World) -> None:
        world.add("w1")
        world.run(until="train")
        (name,) = world.running()
        world.jobs[name]["spec"]["suspend"] = True
        world.pods.clear()
        world.settle()
        assert world.status("w1").state == "Queued"
        assert world.condition("w1", "Progressing")[:2] == ("Unknown", "Admission")  # type: ignore[index]
        world.jobs[name]["spec"]["suspend"] = False
        world.add_pod(name)
        world.settle()
        assert world.status("w1").state == "Running"
        assert world.run() == ALL[5:]


class TestSuspension:
    def test_it_stops_the_job_and_goes_on_with_the_next(self, world: World) -> None:
        world.add("w1")
        world.run(until="train")
        (first,) = world.running()
        world.edit("w1", suspend=True)
        world.settle()
        assert world.running() == []
        assert world.status("w1").state == "Suspended"
        assert world.look() == 0
        world.edit("w1", suspend=False)
        world.settle()
        (second,) = world.running()
        assert second != first
        assert "train-0-1" in second
        assert world.run() == ALL[5:]

    def test_it_waits_until_the_pods_have_ended(self, world: World) -> None:
        world.add("w1")
        world.run(until="train")
        (name,) = world.running()
        (pod,) = world.pods_of(name)
        world.edit("w1", suspend=True)
        world.settle()
        world.pods[pod["metadata"]["name"]] = pod  # it is saving yet
        world.edit("w1", suspend=False)
        world.settle()
        assert world.running() == []
        assert world.condition("w1", "Progressing")[1] == "PodsLeft"  # type: ignore[index]
        world.pods.clear()
        world.settle()
        assert len(world.running()) == 1


class TestQueue:
    def test_one_at_a_time(self, world: World) -> None:
        world.add("w1")
        world.run(until="split")
        world.add("w2")
        world.settle()
        assert world.status("w2").state == "Queued"
        assert world.condition("w2", "Progressing") == ("Unknown", "Queued", "waits for w1, which is Running")
        world.run()
        assert [world.status(name).state for name in ("w1", "w2")] == ["Promoted", "Promoted"]

    def test_the_newest_takes_the_others_sources(self, world: World) -> None:
        world.add("w1")
        world.run(until="train")
        for number in (2, 3, 4):
            world.add(f"w{number}", sources=[{"mbox": f"s3://mail/{number}.mbox"}])
        world.run()
        assert [world.status(f"w{number}").state for number in (2, 3)] == ["Skipped", "Skipped"]
        assert world.condition("w2", "Complete")[1] == "Superseded"  # type: ignore[index]
        assert world.status("w4").state == "Promoted"
        assert [one.mbox for one in world.cycle("w4").sources] == [f"s3://mail/{number}.mbox" for number in (2, 3, 4)]
        (job,) = [job for name, job in world.jobs.items() if name.startswith("w4-parse")]
        document = job["spec"]["template"]["metadata"]["annotations"]["refrain.dev/cycle-document"]
        assert all(f"s3://mail/{number}.mbox" in document for number in (2, 3, 4))

    def test_more_than_one_can_supersede_have_a_turn_of_their_own(self, world: World) -> None:
        for number in range(70):  # of a schedule while the controller was away: all of one source
            world.add(f"w{number:02}")
        world.settle()
        first = world.status("w69")
        assert (first.state, len(first.supersedes)) == ("Running", 64)
        assert CycleStatus.model_validate(world.cycles["w69"]["status"]) == first
        world.run()
        states = [world.status(f"w{number:02}").state for number in range(70)]
        assert states == ["Skipped"] * 64 + ["Skipped"] * 4 + ["Promoted"] * 2
        assert world.status("w68").supersedes == [f"uid-w{number}" for number in range(64, 68)]

    def test_sources_of_another_store_take_no_room(self, world: World) -> None:
        world.add("w1", store={"url": "s3://other"}, sources=[{"mbox": f"s3://mail/{one}.mbox"} for one in range(64)])
        world.add("w2")
        world.add("w3")
        world.settle()
        assert world.status("w3").supersedes == ["uid-w2"]

    def test_one_that_waits_for_approval_blocks_until_its_time_is_up(self, world: World) -> None:
        world.add("w1", promotion={"mode": "Manual", "approvalTimeoutSeconds": 3600})
        world.run()
        world.add("w2")
        world.now += timedelta(seconds=3000)
        world.settle()
        assert [world.status(name).state for name in ("w1", "w2")] == ["AwaitingApproval", "Queued"]
        assert world.condition("w2", "Progressing")[2] == "waits for w1, which is AwaitingApproval"  # type: ignore[index]
        assert world.running() == []
        world.now += timedelta(seconds=601)
        assert world.run(KEPT | {"select": RESULTS["select"]})[:2] == ["promote", "parse"]
        assert world.status("w1").state == "NotPromoted"

    def test_a_failed_one_does_not_block_and_a_suspended_one_does(self, world: World) -> None:
        world.add("w1")
        world.run(until="train")
        world.fail(InputError("no"))
        world.add("w2")
        world.run(until="train")
        world.edit("w2", suspend=True)
        world.add("w3")
        world.settle()
        assert world.running() == []
        assert [world.status(f"w{number}").state for number in (1, 2, 3)] == ["Failed", "Suspended", "Queued"]

    def test_a_retried_one_waits_for_the_running_one(self, world: World) -> None:
        retry_behind_another(world)
        assert world.status("w1").state == "Queued"
        world.run()
        assert [world.status(name).state for name in ("w1", "w2")] == ["Promoted", "Promoted"]

    def test_the_deadline_of_a_retried_one_begins_when_its_turn_comes(self, world: World) -> None:
        retry_behind_another(world, deadlineSeconds=3600)
        world.now += timedelta(seconds=3700)
        world.settle()
        assert world.condition("w1", "Progressing") == ("Unknown", "Queued", "waits for w2, which is Running")
        assert world.status("w1").started_at, "the spec stays fixed"
        while world.running()[0].startswith("w2"):
            world.succeed()
            world.settle()
        assert world.status("w1").started_at == written(world.now)
        world.now += timedelta(seconds=3600)
        world.settle()
        assert world.condition("w1", "Succeeded")[1] == "DeadlineExceeded"  # type: ignore[index]

    def test_a_retried_one_that_is_suspended_and_resumed_waits_for_the_running_one(self, world: World) -> None:
        retry_behind_another(world)
        world.edit("w1", suspend=True)
        world.settle()
        assert [world.status(name).state for name in ("w1", "w2")] == ["Suspended", "Running"]
        world.succeed()
        world.settle()
        assert world.stage_of(world.running()[0])[0] == "index", "what has begun goes on"
        world.edit("w1", suspend=False)
        world.settle()
        assert world.condition("w1", "Progressing") == ("Unknown", "Queued", "waits for w2, which is Running")
        assert world.run() == [*ALL[6:], *ALL[5:]]
        assert [world.status(name).state for name in ("w1", "w2")] == ["Promoted", "Promoted"]

    def test_of_two_suspended_ones_the_one_whose_turn_it_was_goes_on_first(self, world: World) -> None:
        retry_behind_another(world)
        for name in ("w1", "w2"):
            world.edit(name, suspend=True)
            world.settle()
        world.edit("w1", suspend=False)
        world.settle()
        assert world.running() == []
        assert world.condition("w1", "Progressing") == ("Unknown", "Queued", "waits for w2, which is suspended")

    def test_a_job_between_two_tries_whose_cycle_was_deleted_is_waited_for(self, world: World) -> None:
        world.add("w1")
        world.settle()
        (job,) = world.running()
        for pod in world.pods_of(job):
            pod["status"] = {"phase": "Failed"}  # the Job waits to make another
        world.add("w2")
        del world.cycles["w1"]
        world.settle()
        assert world.running() == [job]
        said = f"waits for Job {job}, whose cycle is gone, to end"
        assert world.condition("w2", "Progressing") == ("Unknown", "PodsLeft", said)
        world.remove_job(job)  # the garbage collector has come
        assert world.run() == ALL

    @pytest.mark.parametrize("change", [{"spec": {"suspend": True}}, {"metadata": {"deletionTimestamp": "2026"}}])
    def test_one_that_makes_no_more_pods_is_not(self, world: World, change: dict[str, dict[str, object]]) -> None:
        world.add("w1")
        world.settle()
        (job,) = world.running()
        world.pods.clear()
        for part, fields in change.items():
            world.jobs[job][part] |= fields
        observed = dataclasses.replace(world.observed(), cycles=())
        assert list(observed.live_pods()) == []
        assert list(world.observed().live_pods()) == [], "its cycle sees to it"

    def test_two_that_have_begun_at_once_go_on_in_order(self, world: World) -> None:
        world.add("w1")
        world.add("w2")
        for name in ("w1", "w2"):
            world.cycles[name]["status"] = {"state": "Running", "startedAt": "2026-01-05T03:00:05Z"}
        world.settle()
        assert [world.stage_of(name)[0] for name in world.running()] == ["parse"]
        assert world.running()[0].startswith("w1")
        world.run()
        assert [world.status(name).state for name in ("w1", "w2")] == ["Promoted", "Promoted"]


class TestApproval:
    def test_it_waits_for_the_candidates_digest(self, world: World) -> None:
        world.add("w1", promotion={"mode": "Manual"})
        world.run()
        assert world.status("w1").state == "AwaitingApproval"
        assert WINNER in world.condition("w1", "Progressing")[2]  # type: ignore[index]
        world.edit("w1", promotion={"mode": "Manual", "approve": "b" * 64})
        world.settle()
        assert world.status("w1").state == "AwaitingApproval"
        world.edit("w1", promotion={"mode": "Manual", "approve": WINNER})
        assert world.run() == ["promote"]
        assert world.status("w1").state == "Promoted"

    def test_nobody_approves(self, world: World) -> None:
        world.add("w1", promotion={"mode": "Manual", "approvalTimeoutSeconds": 3600})
        world.run()
        world.now += timedelta(seconds=3601)
        world.settle()
        (name,) = world.running()
        arguments = world.jobs[name]["spec"]["template"]["spec"]["containers"][0]["args"]
        assert arguments[-2] == "--withhold"
        assert arguments[-1].startswith("ApprovalTimedOut: nobody approved")


class TestCrashes:
    """Died behind each of its actions, and looked again: everything ends as if undisturbed, and nothing is doubled."""

    @pytest.mark.parametrize("scenario", ["happy", "retry", "suspend", "promotion", "rollback"])
    def test_died_behind_each_action(self, scenario: str) -> None:
        undisturbed = _play(scenario, None)
        for number in range(1, undisturbed.num_actions + 1):
            disturbed = _play(scenario, number)
            assert _facts(disturbed) == _facts(undisturbed), number


class _Dying(World):
    """Dies once, behind the so manieth action of its life."""

    num_actions = 0
    dies_at: int | None = None

    def look(self, die_behind: int | None = None) -> int:
        left = self.dies_at - self.num_actions if self.dies_at else None
        count = super().look(left if left and left > 0 else None)
        self.num_actions += count
        return count


def _play(scenario: str, dies_at: int | None) -> _Dying:
    world = _Dying()
    world.dies_at = dies_at
    if scenario in ("promotion", "rollback"):
        world.deploy(former=f"cycles/w0/train/checkpoints/step_2@{'f' * 64}")
    world.add("w1")
    if scenario == "happy":
        world.run()
    elif scenario in ("retry", "suspend"):
        world.run(until="train")
        if scenario == "retry":
            world.fail(InputError("no"))
            world.settle()
            world.annotate("w1", retry="1")
        else:
            world.edit("w1", suspend=True)
            world.settle()
            world.edit("w1", suspend=False)
        world.run()
    else:
        world.run()
        world.roll_out(ready=scenario == "promotion")
        world.now += timedelta(seconds=1 if scenario == "promotion" else 601)
        world.run(RESULTS if scenario == "promotion" else KEPT | {"select": RESULTS["select"]})
    world.settle()
    return world


def _facts(world: _Dying) -> tuple[object, ...]:
    """All but times, uids, how often a status was written, and runs: one that was stopped unseen does not count."""
    status = world.status("w1")
    stages = [(one.name, one.attempt, one.state, one.result) for one in status.stages]
    conditions = sorted((one.type, one.status, one.reason, one.message) for one in status.conditions)
    ended = sorted(world.stage_of(name) for name, job in world.jobs.items() if job["status"]["conditions"])
    events = sorted(event.reason for event in world.events.values())
    why = status.promotion.reason if status.promotion else ""
    return status.state, why, stages, conditions, ended, events, world.serving() if world.deployment else ""
