"""Plans, one cycle or several, from apply to their ends, without a cluster."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from controller_world import KEPT, RESULTS, WINNER, World

from controller.actions import PatchStatus
from controller.objects import written
from controller.observed import Refusal
from controller.plan import plan
from controller.settings import MailSettings, Settings
from jobs.contracts.cycle.pods import StageOverride
from jobs.contracts.errors import InputError, MissingInputError, StoppedError
from jobs.contracts.shares import indexes_of
from jobs.contracts.stages import STAGES
from jobs.contracts.termination import encode_error, encode_result

ALL = [row.name for row in STAGES]


@pytest.fixture
def world() -> World:
    return World()


class TestOneCycle:
    def test_it_goes_through_all_stages_and_ends_promoted(self, world: World) -> None:
        world.add("w1")
        assert world.run() == ALL
        status = world.status("w1")
        assert (status.state, status.window_idx, status.log.seq) == ("Promoted", 3, 7)
        assert status.candidate.sha256 == WINNER
        assert [(entry.name, entry.state) for entry in status.stages] == [(name, "Succeeded") for name in ALL]
        assert world.condition("w1", "Complete") == ("True", "Better", "step_4 is better")
        for kind in ("Accepted", "Trained", "Evaluated", "Promoted", "Succeeded"):
            assert world.condition("w1", kind)[0] == "True", kind  # type: ignore[index]
        assert world.condition("w1", "Progressing") is None

    def test_two_writes_a_stage(self, world: World) -> None:
        world.add("w1")
        world.run(until="index")
        before = len(world.writes)
        world.run(until="evaluate")
        assert len(world.writes) - before == 2, world.writes[before:]

    def test_nothing_is_written_when_nothing_has_changed(self, world: World) -> None:
        world.add("w1")
        world.run(until="train")
        for _ in range(10):
            assert world.look() == 0

    def test_the_incumbent_stays(self, world: World) -> None:
        world.add("w1")
        world.run(KEPT)
        assert world.status("w1").state == "NotPromoted"
        assert world.condition("w1", "Succeeded") == ("True", "NotBetter", "the incumbent stays")
        assert world.condition("w1", "Promoted")[:2] == ("False", "NotBetter")  # type: ignore[index]

    def test_too_little_mail_is_a_success(self, world: World) -> None:
        world.add("w1")
        skipped = RESULTS | {"window": {"window_idx": 3, "num_new_train_messages": 2, "skipped": True}}
        assert world.run(skipped) == ["parse", "split", "window"]
        assert world.status("w1").state == "Skipped"
        assert world.condition("w1", "Succeeded") == (
            "True",
            "TooFewMessages",
            "2 new train messages came, and minNewMessages is 10",
        )

    def test_too_small_a_gain_trains_again(self, world: World) -> None:
        again = RESULTS | {"select": RESULTS["select"] | {"outcome": "Retrain"}}
        world.add("w1")
        world.run(until="select")
        world.succeed(again)
        assert world.run() == ["sample", "train", "evaluate", "select", "promote"]
        attempts = {(entry.name, entry.attempt) for entry in world.status("w1").stages}
        assert {("train", 0), ("train", 1), ("promote", 1)} <= attempts

    def test_a_stage_that_would_train_for_ever_is_not_followed(self, world: World) -> None:
        world.add("w1", selection={"maxRetrainAttempts": 1})
        again = RESULTS | {"select": RESULTS["select"] | {"outcome": "Retrain"}}
        assert world.run(again).count("train") == 2
        assert world.condition("w1", "Succeeded")[1] == "ResultUnknown"  # type: ignore[index]


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


class TestFailures:
    def test_an_error_of_the_stage_stands_in_the_condition(self, world: World) -> None:
        world.add("w1")
        world.run(until="train")
        world.fail(InputError("the base model's file is cut", where="base/model.safetensors", hint="fetch it again"))
        world.settle()
        assert world.status("w1").state == "Failed"
        truth, reason, message = world.condition("w1", "Succeeded")  # type: ignore[misc]
        assert (truth, reason) == ("False", "StageFailed")
        assert "train: base/model.safetensors: the base model's file is cut; fetch it again (exit code 65)" in message
        assert world.condition("w1", "Complete")[0] == "True"  # type: ignore[index]

    @pytest.mark.parametrize(
        ("status", "words"),
        [
            (
                {"containerStatuses": [{"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]},
                "train: its pod ended by OOMKilled (exit code 137); it needs more than 32Gi of memory",
            ),
            ({"reason": "Evicted", "message": "out of disk"}, "train: Evicted: out of disk"),
        ],
    )
    def test_a_pod_that_told_nothing_is_told_of(self, world: World, status: dict[str, object], words: str) -> None:
        world.add("w1")
        world.run(until="train")
        (name,) = world.running()
        world.end_job(name, None, exit_code=137)
        (pod,) = world.pods_of(name)
        pod["status"] = {"phase": "Failed", **status}
        world.settle()
        assert world.condition("w1", "Succeeded")[2] == words  # type: ignore[index]

    def test_a_deadline_of_the_settings(self, world: World) -> None:
        train = StageOverride.model_validate({"deadlineSeconds": 100})
        world.settings = world.settings.model_copy(update={"stages": {"train": train}})
        world.add("w1")
        world.run(until="train")
        world.now += timedelta(seconds=90)
        world.settle()
        assert world.status("w1").state == "Running"
        world.now += timedelta(seconds=20)
        world.settle()
        assert world.condition("w1", "Succeeded")[1] == "DeadlineExceeded"  # type: ignore[index]

    def test_a_retry_goes_on_from_the_failed_stage(self, world: World) -> None:
        world.add("w1")
        world.run(until="train")
        world.fail(InputError("no"))
        world.settle()
        world.annotate("w1", retry="1")
        assert world.run() == ALL[5:]
        assert world.status("w1").state == "Promoted"
        train = next(entry for entry in world.status("w1").stages if entry.name == "train")
        assert (train.run, train.job) == (1, next(name for name in world.jobs if "train-0-1" in name))
        assert world.look() == 0, "the annotation stays, and is not acted on again"

    def test_a_retry_that_was_asked_for_before_the_failure_does_nothing(self, world: World) -> None:
        world.add("w1", annotations={"refrain.dev/retry": "early"})
        world.run(until="train")
        world.fail(InputError("no"))
        world.settle()
        assert world.status("w1").state == "Failed"

    def test_a_retry_behind_a_failure_that_is_seen_later_counts(self, world: World) -> None:
        world.add("w1")
        world.run(until="train")
        world.fail(InputError("no"))
        world.annotate("w1", retry="1")
        assert world.run() == ALL[5:]
        assert world.status("w1").state == "Promoted"

    @pytest.mark.parametrize("message", [None, b"", b"{", b'{"stage": "index"}', b"\xff\xfe"[:0] + b"garbage"])
    def test_a_lost_message_is_asked_for_again(self, world: World, message: bytes | None) -> None:
        world.add("w1")
        world.run(until="index")
        (name,) = world.running()
        world.end_job(name, message)
        world.settle()
        assert world.running() == [f"{name}-asks"]
        image = world.jobs[f"{name}-asks"]["spec"]["template"]["spec"]["containers"][0]["image"]
        assert image == world.settings.images.light
        assert world.run() == ["index", "evaluate", "select", "promote"]

    def test_a_job_that_is_gone_and_had_finished_is_not_run_again(self, world: World) -> None:
        world.add("w1")
        world.run(until="train")
        world.remove_job(world.running()[0])
        world.settle()
        (asks,) = world.running()
        assert asks.endswith("-asks")
        assert world.run()[:2] == ["train", "index"]
        assert not any("train-0-1" in name for name in world.jobs)

    def test_a_job_that_is_gone_and_had_not_finished_is_begun_again(self, world: World) -> None:
        world.add("w1")
        world.run(until="train")
        world.remove_job(world.running()[0])
        world.settle()
        world.fail(MissingInputError("train has not finished"))
        assert world.run() == ALL[5:]
        assert world.status("w1").state == "Promoted"

    def test_a_store_that_cannot_be_asked_ends_it(self, world: World) -> None:
        world.add("w1")
        world.run(until="train")
        world.remove_job(world.running()[0])
        world.settle()
        world.fail(InputError("no such thing"))
        world.settle()
        assert world.condition("w1", "Succeeded")[1] == "ResultUnknown"  # type: ignore[index]

    def test_a_stage_that_takes_too_long_is_stopped(self, world: World) -> None:
        world.add("w1", stages={"train": {"deadlineSeconds": 100}})
        world.run(until="train")
        world.now += timedelta(seconds=101)
        world.settle()
        assert world.running() == []
        assert world.condition("w1", "Succeeded")[1] == "DeadlineExceeded"  # type: ignore[index]

    def test_a_cycle_that_takes_too_long_is_stopped(self, world: World) -> None:
        world.add("w1", deadlineSeconds=1000)
        world.run(until="index")
        world.now += timedelta(seconds=1001)
        world.settle()
        assert world.running() == []
        assert world.condition("w1", "Succeeded")[1] == "DeadlineExceeded"  # type: ignore[index]

    @pytest.mark.parametrize("is_written_down", [True, False])
    def test_what_has_ended_well_by_the_cycles_deadline_is_kept(self, world: World, *, is_written_down: bool) -> None:
        world.add("w1", deadlineSeconds=3600)
        world.run(until="sample")
        world.succeed()
        # Behind it the controller dies: at once, or once it has begun the training and not said so.
        observed = world.observed()
        for action in plan(observed.cycles[0], observed, world.settings, world.now).actions:
            if is_written_down or not isinstance(action, PatchStatus):
                world.apply(action)
        assert world.succeed() == "train"
        world.now += timedelta(hours=2)
        world.settle()
        assert world.condition("w1", "Succeeded")[:2] == ("False", "DeadlineExceeded")  # type: ignore[index]
        assert (world.status("w1").stages[-1].name, world.status("w1").stages[-1].state) == ("train", "Succeeded")
        world.annotate("w1", retry="1")
        assert world.run() == ALL[6:]

    def test_a_cycle_that_has_ended_in_time_is_not_failed_for_being_seen_late(self, world: World) -> None:
        world.add("w1", deadlineSeconds=3600)
        world.run(until="window")
        world.succeed(RESULTS | {"window": {"window_idx": 3, "num_new_train_messages": 2, "skipped": True}})
        world.now += timedelta(hours=2)
        world.settle()
        assert world.condition("w1", "Succeeded")[:2] == ("True", "TooFewMessages")  # type: ignore[index]

    def test_a_quota_says_why(self, world: World) -> None:
        world.add("w1")
        world.settle()
        (name,) = world.running()
        world.pods.clear()
        world.warnings[name] = "pods is forbidden: exceeded quota: small, requested: cpu=1"
        world.settle()
        truth, reason, message = world.condition("w1", "Progressing")  # type: ignore[misc]
        assert (truth, reason) == ("False", "QuotaExceeded")
        assert "exceeded quota: small" in message

    def test_the_scheduler_says_why(self, world: World) -> None:
        world.add("w1")
        world.run(until="train")
        (pod,) = world.pods_of(world.running()[0])
        words = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
        scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
        pod["status"] = {"phase": "Pending", "conditions": [scheduled]}
        world.settle()
        assert world.condition("w1", "Progressing") == ("False", "Unschedulable", words)
        assert any(event.reason == "Unschedulable" and event.is_warning for event in world.events.values())

    def test_an_image_that_cannot_be_pulled(self, world: World) -> None:
        world.add("w1")
        world.settle()
        (pod,) = world.pods_of(world.running()[0])
        waiting = {"reason": "ImagePullBackOff", "message": "not found"}
        pod["status"] = {"phase": "Pending", "containerStatuses": [{"image": "nope", "state": {"waiting": waiting}}]}
        world.settle()
        assert world.condition("w1", "Progressing")[1] == "ImagePullFailed"  # type: ignore[index]

    def test_a_job_that_is_refused_for_good_fails_the_cycle(self, world: World) -> None:
        world.add("w1")
        world.look()
        observed = world.observed()
        assert observed.cycles[0].is_active
        world.look()
        (name,) = world.running()
        world.remove_job(name)
        entry = world.cycles["w1"]["status"]["stages"][-1]
        entry["jobUid"] = ""
        world.refusals[name] = Refusal("spec.template.spec.affinity: Invalid value", is_permanent=True)
        world.settle()
        assert world.condition("w1", "Succeeded")[1] == "JobRefused"  # type: ignore[index]


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


class TestClocks:
    def test_a_clock_that_jumps_changes_nothing_but_deadlines(self, world: World) -> None:
        world.add("w1", stages={"train": {"deadlineSeconds": 7200}})
        world.run(until="train")
        world.now -= timedelta(days=400)
        assert world.look() == 0
        world.now += timedelta(days=400, hours=1)
        assert world.look() == 0
        assert world.run()[-1] == "promote"


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
        world.add("w1")
        world.run(until="train")
        world.fail(InputError("no"))
        world.settle()
        world.add("w2")
        world.run(until="train")
        world.annotate("w1", retry="1")
        world.settle()
        assert world.status("w1").state == "Queued"
        world.run()
        assert [world.status(name).state for name in ("w1", "w2")] == ["Promoted", "Promoted"]

    def test_a_retried_one_that_is_suspended_and_resumed_waits_for_the_running_one(self, world: World) -> None:
        world.add("w1")
        world.run(until="train")
        world.fail(InputError("no"))
        world.settle()
        world.add("w2")
        world.run(until="train")
        world.annotate("w1", retry="1")
        world.settle()
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
        world.add("w1")
        world.run(until="train")
        world.fail(InputError("no"))
        world.settle()
        world.add("w2")
        world.run(until="train")
        world.annotate("w1", retry="1")
        for name in ("w1", "w2"):
            world.settle()
            world.edit(name, suspend=True)
        world.settle()
        world.edit("w1", suspend=False)
        world.settle()
        assert world.running() == []
        assert world.condition("w1", "Progressing") == ("Unknown", "Queued", "waits for w2, which is suspended")

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


class TestOtherVersions:
    def test_fields_of_a_newer_version_are_passed_over_and_said(self, world: World) -> None:
        world.add("w1", novelty={"x": 1}, training={"epochs": 2, "flavour": "sour"})
        world.run()
        assert world.status("w1").state == "Promoted"
        truth, reason, message = world.condition("w1", "Accepted")  # type: ignore[misc]
        assert (truth, reason) == ("True", "UnknownFields")
        assert "spec.novelty" in message
        assert "spec.training.flavour" in message

    def test_a_value_that_is_not_known_waits_for_a_newer_controller(self, world: World) -> None:
        world.add("w1", selection={"strategy": "Oracle"})
        world.add("w2")
        world.settle()
        assert world.condition("w1", "Accepted")[:2] == ("False", "InvalidSpec")  # type: ignore[index]
        assert world.running()[0].startswith("w2")

    def test_a_secret_that_is_not_allowed(self, world: World) -> None:
        world.add("w1", store={"url": "s3://refrain", "secretRef": {"name": "somebody-elses"}})
        world.settle()
        assert world.running() == []
        assert world.condition("w1", "Accepted")[1] == "SecretNotAllowed"  # type: ignore[index]

    @pytest.mark.parametrize(
        ("hosts", "is_followed"), [([], False), (["mail.example"], True), (["other.example"], False)]
    )
    def test_an_imap_server_that_would_be_told_the_password(
        self, world: World, hosts: list[str], is_followed: bool
    ) -> None:
        mail = MailSettings(imap_hosts=hosts, secrets=["mailbox"])
        world.settings = world.settings.model_copy(update={"mail": mail})
        world.add("w1", sources=[{"imap": "imaps://ann@mail.example/INBOX"}])
        world.settle()
        assert bool(world.running()) == is_followed
        if not is_followed:
            assert world.condition("w1", "Accepted")[1] == "MailHostNotAllowed"  # type: ignore[index]
            return
        assert world.run()[0] == "parse"
        has_password = {
            world.stage_of(name)[0]
            for name, job in world.jobs.items()
            if {"secretRef": {"name": "mailbox"}} in job["spec"]["template"]["spec"]["containers"][0]["envFrom"]
        }
        assert has_password == {"parse"}


class TestEnds:
    def test_a_cycle_goes_when_its_time_is_up(self, world: World) -> None:
        world.add("w1", ttlSecondsAfterFinished=60)
        world.run()
        world.now += timedelta(seconds=59)
        world.settle()
        assert "w1" in world.cycles
        world.now += timedelta(seconds=2)
        world.settle()
        assert world.cycles == {}

    def test_paused_it_looks_on(self, world: World) -> None:
        world.settings = world.settings.model_copy(update={"paused": True})
        world.add("w1")
        assert world.look() == 0

    def test_many_nodes_are_begun_again_together(self, world: World) -> None:
        world.add("w1", training={"nodes": 2})
        world.run(until="train")
        (name,) = world.running()
        job = world.jobs[name]["spec"]
        assert (job["completionMode"], job["completions"], job["backoffLimit"]) == ("Indexed", 2, 0)
        (service,) = world.services.values()
        assert service["spec"]["publishNotReadyAddresses"] is True
        assert job["template"]["spec"]["subdomain"] == service["metadata"]["name"]
        world.fail(StoppedError("evicted"), reason="BackoffLimitExceeded")
        world.settle()
        assert "train-0-1" in world.running()[0]
        assert world.run()[-1] == "promote"

    def test_a_service_that_was_refused_for_good_is_tried_again_by_a_retry(self, world: World) -> None:
        world.add("w1", training={"nodes": 2})
        world.run(until="train")
        (service,) = world.services
        world.remove_job(world.running()[0])
        world.cycles["w1"]["status"]["stages"][-1]["jobUid"] = ""
        world.refusals[service] = Refusal("spec.ports: Invalid value", is_permanent=True)
        world.settle()
        assert world.condition("w1", "Succeeded")[1] == "JobRefused"  # type: ignore[index]
        world.annotate("w1", retry="1")
        assert world.run()[0] == "train"
        assert world.status("w1").state == "Promoted"

    @pytest.mark.parametrize(("minutes", "state"), [(1, "Failed"), (11, "Running")])
    def test_ranks_that_are_lost_now_and_then_are_not_lost_over_and_over(
        self, world: World, minutes: int, state: str
    ) -> None:
        world.add("w1", training={"nodes": 2})
        world.run(until="train")
        for _ in range(6):
            world.now += timedelta(minutes=minutes)
            if world.status("w1").state == "Running":
                world.fail(StoppedError("evicted"), reason="BackoffLimitExceeded")
            world.settle()
        assert world.status("w1").state == state

    def test_many_nodes_are_not_begun_again_for_an_error_that_would_come_again(self, world: World) -> None:
        """torchrun ends with 1, whatever its ranks end with."""
        world.add("w1", training={"nodes": 2})
        world.run(until="train")
        world.fail(InputError("the base model is cut"), reason="BackoffLimitExceeded")
        world.settle()
        assert world.status("w1").state == "Failed"

    def test_a_long_name_is_shortened_in_labels(self, world: World) -> None:
        world.add("w" * 200)
        assert world.run()[-1] == "promote"
        assert all(len(text) <= 63 for job in world.jobs.values() for text in job["metadata"]["labels"].values())

    def test_conditions_hold_of_the_spec_as_it_stands_now(self, world: World) -> None:
        """`kubectl wait` passes over a condition of an older generation."""
        world.add("w1")
        world.run()
        world.edit("w1", ttlSecondsAfterFinished=9000)
        world.settle()
        status = world.status("w1")
        assert {one.observed_generation for one in status.conditions} == {2} == {status.observed_generation}
        assert world.look() == 0

    def test_a_result_that_is_none_fails_the_cycle_and_not_the_controller(self, world: World) -> None:
        world.add("w1")
        world.run(until="select")
        world.succeed(RESULTS | {"select": RESULTS["select"] | {"delta": "a lot"}})
        world.settle()
        assert world.condition("w1", "Succeeded")[1] == "ResultUnknown"  # type: ignore[index]

    def test_more_sources_than_one_cycle_holds(self, world: World) -> None:
        world.add("w0")
        world.run(until="split")
        for number in range(1, 11):
            world.add(f"w{number}", sources=[{"mbox": f"s3://mail/{number}.{one}"} for one in range(20)])
        world.run()
        states = [world.status(f"w{number}").state for number in range(11)]
        assert (states.count("Promoted"), states.count("Skipped")) == (5, 6), states
        ran = [world.cycle(f"w{n}") for n in range(11) if states[n] == "Promoted"]
        assert len({source.mbox for cycle in ran for source in cycle.sources}) == 201
        assert all(len(cycle.sources) <= 64 for cycle in ran)

    def test_sources_of_another_store_are_not_taken(self, world: World) -> None:
        world.add("w0")
        world.run(until="split")
        world.add("w1", store={"url": "s3://other"})
        world.add("w2", sources=[{"mbox": "s3://mail/2.mbox"}])
        world.run()
        assert [world.status(f"w{number}").state for number in range(3)] == ["Promoted"] * 3

    def test_the_same_mailbox_is_taken_once(self, world: World) -> None:
        world.add("w0")
        world.run(until="split")
        for number in (1, 2, 3):
            world.add(f"w{number}", sources=[{"imap": "imaps://ann@mail.example/INBOX"}])
        world.run()
        assert len(world.cycle("w3").sources) == 1

    def test_one_that_is_not_accepted_blocks_nobody(self, world: World) -> None:
        world.add("w1")
        world.add("w2", store={"url": "s3://refrain", "secretRef": {"name": "somebody-elses"}})
        assert world.run() == ALL
        assert world.status("w1").state == "Promoted"

    def test_a_quota_on_jobs_says_why(self, world: World) -> None:
        world.add("w1")
        world.look()
        world.look()
        (name,) = world.running()
        world.remove_job(name)
        world.cycles["w1"]["status"]["stages"][-1]["jobUid"] = ""
        world.refusals[name] = Refusal("jobs.batch is forbidden: exceeded quota: few", is_permanent=False)
        world.look()
        assert world.condition("w1", "Progressing")[1] == "QuotaExceeded"  # type: ignore[index]
        world.remove_job(name)  # it was refused, which this world does not know
        world.cycles["w1"]["status"]["stages"][-1]["jobUid"] = ""
        world.now += timedelta(hours=30)
        observed = world.observed()
        wake = plan(observed.cycles[0], observed, world.settings, world.now).wake
        assert wake is not None
        assert wake > world.now, "what is refused for longer than the stage may take is not tried all the time"

    def test_a_job_that_waits_for_admission_is_not_over_time_and_holds_its_archive(self, world: World) -> None:
        world.add("w1")
        world.run(until="train")
        world.fail(InputError("no"))
        world.settle()
        world.add("w2", stages={"parse": {"deadlineSeconds": 60}})
        world.settle()
        (name,) = world.running()
        world.jobs[name]["spec"]["suspend"] = True
        world.pods.clear()
        world.now += timedelta(hours=2)
        world.settle()
        assert world.status("w2").state == "Queued"
        world.annotate("w1", retry="1")
        world.settle()
        assert world.running() == [name]

    def test_a_question_that_is_never_answered_says_why_and_ends(self, world: World) -> None:
        world.add("w1")
        world.run(until="train")
        world.remove_job(world.running()[0])
        world.settle()
        (pod,) = world.pods_of(world.running()[0])
        scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room"}
        pod["status"] = {"phase": "Pending", "conditions": [scheduled]}
        world.settle()
        assert world.condition("w1", "Progressing") == ("False", "Unschedulable", "no room")
        world.now += timedelta(days=2)
        world.settle()
        assert world.condition("w1", "Succeeded")[1] == "ResultUnknown"  # type: ignore[index]

    def test_a_status_of_a_newer_version_is_let_be_and_holds_its_archive(self, world: World) -> None:
        world.add("w1")
        world.cycles["w1"]["status"] = {"state": "Dreaming", "startedAt": "2026-01-05T03:00:05Z", "stages": []}
        world.add("w2")
        world.settle()
        assert world.running() == []
        assert world.cycles["w1"]["status"]["state"] == "Dreaming"
        assert world.status("w2").state == "Queued"

    @pytest.mark.parametrize(
        ("stage", "change"),
        [
            ("window", {"window_idx": "three"}),
            ("select", {"candidate": None}),
            ("select", {"candidate": {"adapter": "x"}}),
        ],
    )
    def test_results_that_are_none(self, world: World, stage: str, change: dict[str, object]) -> None:
        world.add("w1")
        world.run(until=stage)
        world.succeed(RESULTS | {stage: RESULTS[stage] | change})
        world.settle()
        assert world.condition("w1", "Succeeded")[1] == "ResultUnknown"  # type: ignore[index]

    def test_a_reason_of_many_words_becomes_one(self, world: World) -> None:
        world.add("w1")
        world.run(RESULTS | {"promote": RESULTS["promote"] | {"reason": "it is better! " * 200}})
        assert world.condition("w1", "Promoted")[1].startswith("itisbetter")  # type: ignore[index]

    def test_suspended_just_behind_a_stages_end_it_keeps_the_result(self, world: World) -> None:
        world.add("w1")
        world.run(until="train")
        world.succeed()
        world.edit("w1", suspend=True)
        world.settle()
        assert world.status("w1").state == "Suspended"
        world.edit("w1", suspend=False)
        assert world.run() == ALL[6:]

    def test_labels_that_jobs_go_by_are_not_a_cycles_to_give(self, world: World) -> None:
        world.add("w1", stages={"parse": {"labels": {"batch.kubernetes.io/job-completion-index": "abc", "a": "b"}}})
        assert world.run() == ALL

    def test_many_nodes_in_further_attempts(self, world: World) -> None:
        world.add("w1", training={"nodes": 2})
        world.run(until="select")
        world.succeed(RESULTS | {"select": RESULTS["select"] | {"outcome": "Retrain"}})
        assert world.run()[-1] == "promote"
        assert len(world.services) == 1
