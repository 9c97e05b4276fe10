"""Plans of training that is lost again and again: how often it is begun anew, and for how long."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from controller_world import World

from controller.objects import written
from controller.settings import Settings
from jobs.contracts.cycle.status import Progress
from jobs.contracts.errors import ConfigError, MissingInputError, RefrainError, StoppedError, TransientError
from jobs.contracts.termination import encode_error


def training(kind: str = "many nodes", **changes: Any) -> World:
    """A world in which training runs, on two nodes or as a TrainJob."""
    world = World()
    if kind == "TrainJob":
        world.settings = Settings.model_validate({"namespace": "mail", "trainJob": {"runtime": "torch"}})
    world.add("w1", training={"nodes": 2}, **changes)
    world.run(until="train")
    return world


def lose(world: World, minutes: float, percent: float | None = None) -> None:
    """The run tells half-way how far it is, and is lost after so long; the controller died in between."""
    (name,) = world.running()
    world.now += timedelta(minutes=minutes / 2)
    if percent is not None:
        world.progress[name] = Progress(percent=percent)
        world.settle()
        world.progress.clear()
    world.now += timedelta(minutes=minutes / 2)
    world.end_job(name, None, exit_code=137, reason="BackoffLimitExceeded")
    world.settle()


def state(world: World) -> tuple[str, int]:
    """The cycle's, and which run of its stage it is."""
    return world.status("w1").state, world.status("w1").stages[-1].run


@pytest.mark.parametrize("minutes", [1, 11, 300])
@pytest.mark.parametrize("kind", ["many nodes", "TrainJob"])
def test_it_is_tried_as_often_as_the_stage_table_says_however_long_a_run_lasts(kind: str, minutes: int) -> None:
    world = training(kind)
    for run in range(1, 4):
        lose(world, minutes)
        assert state(world) == ("Running", run)
    lose(world, minutes)
    assert state(world) == ("Failed", 3)


def test_losses_are_forgotten_where_it_got_further_and_there_alone() -> None:
    world = training()
    for run in range(1, 9):
        lose(world, 30, percent=10.4 * run)
        assert state(world) == ("Running", run)
    lose(world, 30, percent=83.9)  # at the same place, within what is noticed
    lose(world, 30, percent=70)
    assert state(world) == ("Running", 10)
    lose(world, 30)
    assert state(world) == ("Failed", 10)


@pytest.mark.parametrize("kind", ["many nodes", "TrainJob"])
def test_its_deadline_is_that_of_all_its_runs(kind: str) -> None:
    world = training(kind, stages={"train": {"deadlineSeconds": 3600}})
    lose(world, 25)
    lose(world, 25)
    world.now += timedelta(minutes=9)
    world.settle()
    assert state(world) == ("Running", 2)
    world.now += timedelta(minutes=2)
    world.settle()
    said = ("False", "DeadlineExceeded", "train took longer than 3600 s, in all its runs")
    assert world.condition("w1", "Succeeded") == said
    world.annotate("w1", retry="1")
    world.settle()
    world.now += timedelta(minutes=50)
    world.settle()
    assert state(world) == ("Running", 3), "a retry begins it anew"


def test_lost_at_its_deadline_it_fails_in_the_words_of_the_loss() -> None:
    world = training(stages={"train": {"deadlineSeconds": 3600}})
    lose(world, 35, percent=20)
    lose(world, 35, percent=40)
    assert state(world) == ("Failed", 1)
    said = ("False", "StageFailed", "train: its pod ended by Error (exit code 137)")
    assert world.condition("w1", "Succeeded") == said


def test_a_wait_between_two_runs_counts_for_no_deadline() -> None:
    world = training(stages={"train": {"deadlineSeconds": 3600}})
    lose(world, 25)
    job = world.jobs[world.running()[0]]
    job["spec"]["suspend"] = True
    world.now += timedelta(hours=9)
    world.settle()
    job["spec"]["suspend"] = False
    job["status"]["startTime"] = written(world.now)
    world.now += timedelta(minutes=30)
    world.settle()
    assert state(world) == ("Running", 1)
    world.now += timedelta(minutes=6)
    world.settle()
    assert world.condition("w1", "Succeeded")[1] == "DeadlineExceeded"  # type: ignore[index]


def test_a_job_that_is_deleted_again_and_again_is_begun_as_often() -> None:
    world = World()
    world.add("w1")
    world.run(until="index")
    for run in range(4):
        assert state(world) == ("Running", run)
        world.now += timedelta(minutes=20)
        world.remove_job(world.running()[0])
        world.settle()
        world.fail(MissingInputError("index has not finished"))
        world.settle()
    assert state(world) == ("Failed", 3)


def test_a_status_of_before_is_read() -> None:
    world = training()
    entry = world.cycles["w1"]["status"]["stages"][-1]
    del entry["lostPercent"], entry["lostSeconds"]
    world.fail(StoppedError("evicted"), reason="BackoffLimitExceeded")
    world.settle()
    assert state(world) == ("Running", 1)


PEER = TransientError("another process of this training was lost")
STOPPED = StoppedError("told to stop")
SMALL = ConfigError("the GPU's memory is too small")
DEFECT = RuntimeError("index out of range")


def lose_ranks(*errors: BaseException | str) -> World:
    """Each rank of a training ends with an error that it tells, or for a reason that its node tells."""
    world = training()
    (name,) = world.running()
    world.add_pod(name, 1)
    world.end_job(name, None, exit_code=1, reason="BackoffLimitExceeded")
    for pod, error in zip(world.pods_of(name), errors, strict=True):
        ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        if isinstance(error, str):
            ended |= {"exitCode": 137, "reason": error}
        else:
            ended["message"] = encode_error("train", 0, error).decode()
    world.settle()
    return world


@pytest.mark.parametrize("other", [PEER, STOPPED, DEFECT])
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_any_rank_that_would_come_again_fails_it_in_its_words(other: BaseException, rank: int) -> None:
    world = lose_ranks(*([SMALL, other] if rank == 0 else [other, SMALL]))
    assert state(world) == ("Failed", 0)
    said = ("False", "StageFailed", "train: the GPU's memory is too small (exit code 78)")
    assert world.condition("w1", "Succeeded") == said


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ((PEER, DEFECT), "index out of range"),
        ((STOPPED, DEFECT), "index out of range"),
        ((DEFECT, PEER), "index out of range"),
        ((PEER, STOPPED), "another process"),
        ((RefrainError("of rank 0"), DEFECT), "of rank 0"),
        ((PEER, "OOMKilled"), "OOMKilled (exit code 137); it needs more than 32Gi of memory"),
        (("OOMKilled", STOPPED), "OOMKilled"),
        (("Error", DEFECT), "index out of range"),
    ],
)
def test_the_rank_that_failed_by_itself_is_heard_before_those_that_it_stopped(
    errors: tuple[BaseException | str, ...], words: str
) -> None:
    world = lose_ranks(*errors)
    assert state(world) == ("Running", 1)
    (lost,) = [event for event in world.events.values() if event.reason == "RanksLost"]
    assert words in lost.message
