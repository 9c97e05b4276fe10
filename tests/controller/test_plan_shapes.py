"""Plans of stages that are no single Job: evaluation on several pods, a TrainJob."""

from __future__ import annotations

from typing import Any

import pytest
from controller_world import ALL, RESULTS, World

from controller.objects import written
from controller.settings import Settings
from jobs.contracts.errors import InputError, MissingInputError
from jobs.contracts.shares import indexes_of
from jobs.contracts.termination import encode_error, encode_result


class TestEvaluationOnSeveralPods:
    @pytest.fixture
    def shared(self, world: World) -> World:
        world.add("w1", evaluation={"pods": 3})
        world.run(until="evaluate")
        (job,) = world.running()
        for index in (1, 2):
            world.add_pod(job, index)
        return world

    def end_shares(self, world: World, failed: str = "", reason: str = "FailedIndexes") -> str:
        """The shares' Job ends: each of its pods has told of its share, or why it failed."""
        (job,) = world.running()
        lost = indexes_of(failed)
        for index, pod in enumerate(world.pods_of(job)):
            told = encode_result("evaluate", 0, {"share": f"{index}/3"})
            if index in lost:
                told = encode_error("evaluate", 0, InputError("its loss is nan", where="step_4"))
            terminated = {"exitCode": 65 if index in lost else 0, "message": told.decode()}
            phase = "Failed" if index in lost else "Succeeded"
            pod["status"] = {"phase": phase, "containerStatuses": [{"state": {"terminated": terminated}}]}
        kind = {"type": "Failed" if failed else "Complete", "status": "True", "reason": reason, "message": "over"}
        world.jobs[job]["status"] = {"conditions": [kind], "failedIndexes": failed}
        world.settle()
        return job

    def test_shares_are_put_together_on_the_light_image(self, shared: World) -> None:
        job = self.end_shares(shared)
        assert shared.running() == [f"{job}-gathers"]
        container = shared.jobs[f"{job}-gathers"]["spec"]["template"]["spec"]["containers"][0]
        assert container["image"] == shared.settings.images.light
        assert "--without" not in container["args"]
        assert shared.status("w1").stages[-1].state == "Running", "a share's words are no result of the stage"
        assert shared.run() == ["evaluate", "select", "promote"]
        assert shared.condition("w1", "Evaluated") == ("True", "Evaluated", "every checkpoint was scored")

    def test_shares_that_fail_for_good_are_done_without_and_named(self, shared: World) -> None:
        job = self.end_shares(shared, "2")
        arguments = shared.jobs[f"{job}-gathers"]["spec"]["template"]["spec"]["containers"][0]["args"]
        assert arguments[arguments.index("--without") + 1] == "2"
        assert "step_4: its loss is nan" in shared.condition("w1", "Progressing")[2]  # type: ignore[index]
        told = {"num_checkpoints": 2, "num_not_scored": 1, "not_scored": ["step_4"]}
        assert shared.run(RESULTS | {"evaluate": told}) == ["evaluate", "select", "promote"]
        message = "1 of 3 checkpoints were not scored, and are not chosen: step_4"
        assert shared.condition("w1", "Evaluated") == ("True", "NotAllScored", message)
        assert {event.reason for event in shared.events.values()} >= {"SharesLost", "NotAllScored"}
        assert shared.status("w1").state == "Promoted"

    def test_too_many_that_fail_fail_the_stage(self, shared: World) -> None:
        self.end_shares(shared, "1-2", "MaxFailedIndexesExceeded")
        message = "evaluate: step_4: its loss is nan (exit code 65)"
        assert shared.condition("w1", "Succeeded") == ("False", "StageFailed", message)

    def test_what_cannot_be_put_together_fails_the_stage_and_a_retry_scores_again(self, shared: World) -> None:
        self.end_shares(shared, "0")
        shared.fail(InputError("what is in service was not scored"))
        shared.settle()
        truth, reason, message = shared.condition("w1", "Succeeded")  # type: ignore[misc]
        assert (truth, reason) == ("False", "StageFailed")
        assert "what is in service was not scored" in message
        shared.annotate("w1", retry="1")
        shared.settle()
        self.end_shares(shared)
        assert shared.run() == ["evaluate", "select", "promote"]
        assert shared.status("w1").stages[-3].run == 1

    def test_shares_whose_job_is_gone_are_put_together_if_they_are_there(self, shared: World) -> None:
        (job,) = shared.running()
        shared.remove_job(job)
        shared.settle()
        assert shared.running() == [f"{job}-gathers"]
        shared.fail(MissingInputError("share 1 of 3 of evaluate has not finished"))
        shared.settle()
        assert shared.running() == [shared.status("w1").stages[-1].job] != [job], "it is begun again"
        self.end_shares(shared)
        assert shared.run() == ["evaluate", "select", "promote"]

    def test_a_gathering_that_is_gone_is_made_again(self, shared: World) -> None:
        job = self.end_shares(shared, "2")
        before = shared.jobs[f"{job}-gathers"]["spec"]
        shared.remove_job(f"{job}-gathers")
        shared.settle()
        assert shared.jobs[f"{job}-gathers"]["spec"] == before

    @pytest.mark.parametrize("has_gathered", [False, True])
    def test_it_is_suspended_and_goes_on(self, shared: World, *, has_gathered: bool) -> None:
        job = self.end_shares(shared)
        if has_gathered:
            shared.end_job(f"{job}-gathers", encode_result("evaluate", 0, RESULTS["evaluate"]))
        shared.edit("w1", suspend=True)
        shared.settle()
        assert shared.status("w1").stages[-1].state == ("Succeeded" if has_gathered else "Suspended")
        assert shared.running() == []
        shared.edit("w1", suspend=False)
        shared.settle()
        if not has_gathered:
            self.end_shares(shared)
        assert shared.run()[-2:] == ["select", "promote"]

    def test_a_crash_behind_any_action_changes_nothing(self) -> None:
        def outcome(die_behind: int | None) -> tuple[list[str], Any]:
            world = World()
            world.add("w1", evaluation={"pods": 3})
            world.run(until="evaluate")
            (job,) = world.running()
            for index in (1, 2):
                world.add_pod(job, index)
            world.jobs[job]["status"] = {"conditions": [], "failedIndexes": "2"}
            failed = {"type": "Failed", "status": "True", "reason": "FailedIndexes"}
            world.jobs[job]["status"]["conditions"] = [failed]
            for pod in world.pods_of(job):
                pod["status"] = {"phase": "Succeeded"}
            world.look(die_behind)
            world.run()
            return sorted(world.jobs), world.cycles["w1"]["status"]

        expected = outcome(None)
        assert [outcome(count) for count in (1, 2, 3)] == [expected] * 3


class TestTrainJob:
    @pytest.fixture
    def handed(self, world: World) -> World:
        changed = Settings.model_validate({"namespace": "mail", "trainJob": {"runtime": "torch-distributed"}})
        world.settings = changed
        world.add("w1", training={"nodes": 2})
        world.run(until="train")
        return world

    def end(self, world: World, kind: str, reason: str = "JobsDone") -> str:
        (job,) = world.running()
        said = {"type": kind, "status": "True", "reason": reason, "message": "it is over"}
        world.jobs[job]["status"] = {"conditions": [said]}
        world.settle()
        return job

    def test_the_store_is_asked_for_its_result(self, handed: World) -> None:
        assert handed.jobs[handed.running()[0]]["kind"] == "TrainJob"
        assert handed.services == {}
        job = self.end(handed, "Complete")
        assert handed.running() == [f"{job}-asks"]
        assert handed.run() == ALL[5:]
        assert handed.status("w1").state == "Promoted"

    def test_one_that_fails_is_begun_again_and_goes_on_from_its_checkpoints(self, handed: World) -> None:
        for run in range(3):
            self.end(handed, "Failed", "JobSetFailed")
            assert handed.status("w1").stages[-1].run == run + 1
        self.end(handed, "Failed", "JobSetFailed")
        assert handed.condition("w1", "Succeeded") == ("False", "StageFailed", "train: it is over")

    def test_its_name_is_one_that_jobset_takes(self, world: World) -> None:
        world.settings = Settings.model_validate({"namespace": "mail", "trainJob": {"runtime": "torch-distributed"}})
        world.add("2026-11-29-linux-kernel-mailing-list-of-a-whole-year")
        world.run(until="train")
        (job,) = world.running()
        assert job.startswith("t-2026-11-29-linux-")
        assert len(f"{job}-node-0-1023-abcde") <= 63

    def test_a_runtime_that_is_none_fails_at_once(self, handed: World) -> None:
        self.end(handed, "Failed", "TrainingRuntimeNotSupported")
        assert handed.condition("w1", "Succeeded")[1] == "StageFailed"  # type: ignore[index]

    def test_one_that_a_ttl_removed_is_not_run_again(self, handed: World) -> None:
        job = handed.running()[0]
        handed.remove_job(job)
        handed.settle()
        assert handed.running() == [f"{job}-asks"]
        assert handed.run() == ALL[5:]
        assert next(one for one in handed.status("w1").stages if one.name == "train").run == 0

    def test_one_that_waits_to_be_admitted_is_queued(self, handed: World) -> None:
        (job,) = handed.running()
        handed.jobs[job]["spec"]["suspend"] = True
        handed.settle()
        assert handed.status("w1").state == "Queued"
        handed.jobs[job]["spec"]["suspend"] = False
        resumed = {"type": "Suspended", "status": "False", "lastTransitionTime": written(handed.now)}
        handed.jobs[job]["status"] = {"conditions": [resumed]}
        handed.settle()
        assert handed.status("w1").state == "Running"

    def test_a_suspended_cycle_waits_until_its_pods_are_gone(self, handed: World) -> None:
        (job,) = handed.running()
        there = handed.jobs[job]
        handed.edit("w1", suspend=True)
        handed.settle()
        assert job not in handed.jobs
        handed.jobs[job] = there  # it stays, by its finalizer, while its pods save
        there["metadata"]["deletionTimestamp"] = written(handed.now)
        handed.edit("w1", suspend=False)
        handed.settle()
        assert handed.condition("w1", "Progressing") == ("True", "PodsLeft", f"waits for pod {job} to end")
        del handed.jobs[job]
        handed.settle()
        assert handed.running() == [handed.status("w1").stages[-1].job] != [job]

    def test_placement_is_the_runtimes_and_that_is_said(self, world: World) -> None:
        world.settings = Settings.model_validate({"namespace": "mail", "trainJob": {"runtime": "torch"}})
        world.add("w1", stages={"train": {"nodeSelector": {"a": "b"}}})
        world.run(until="train")
        told = next(event for event in world.events.values() if event.reason == "LeftToTheRuntime")
        assert told.message == "nodeSelector of train: its TrainJob's runtime decides"
