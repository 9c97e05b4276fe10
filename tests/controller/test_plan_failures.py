"""Plans of what goes wrong: stages that fail, are lost, take too long or say nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest
from controller_world import ALL, RESULTS, World

from controller.actions import PatchStatus
from controller.observed import Refusal
from controller.plan import plan
from jobs.contracts.cycle.pods import StageOverride
from jobs.contracts.errors import InputError, MissingInputError


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
        world.refuse_job("spec.template.spec.affinity: Invalid value", is_permanent=True)
        world.settle()
        assert world.condition("w1", "Succeeded")[1] == "JobRefused"  # type: ignore[index]

    @pytest.mark.parametrize(
        ("words", "reason"),
        [
            ('admission webhook "policy" denied the request', "JobRefused"),
            ("jobs.batch is forbidden: exceeded quota: small", "QuotaExceeded"),
        ],
    )
    def test_a_job_that_is_refused_again_and_again_fails_the_cycle_at_the_stages_deadline(
        self, world: World, words: str, reason: str
    ) -> None:
        world.add("w1", stages={"index": {"deadlineSeconds": 7200}})
        world.run(until="train")
        world.succeed()
        world.look()
        world.refuse_job(words)
        world.look()
        world.now += timedelta(seconds=7100)
        world.look()
        assert world.condition("w1", "Progressing") == ("False", reason, words)
        world.now += timedelta(seconds=100)
        world.look()
        said = f"index took longer than 7200 s, for its Job was refused: {words}"
        assert world.condition("w1", "Succeeded") == ("False", "JobRefused", said)
        assert world.look() == 0
        world.annotate("w1", retry="1")
        assert world.run() == ALL[6:]

    def test_a_job_that_was_refused_for_a_while_is_created(self, world: World) -> None:
        world.add("w1")
        world.look()
        world.look()
        name = world.refuse_job("denied")
        world.look()
        world.now += timedelta(hours=2)
        del world.refusals[name]  # the controller was started again, and knows nothing of it
        world.settle()
        assert world.running() == [name]
        assert world.run() == ALL

    def test_a_question_to_the_store_that_is_refused_again_and_again_fails_the_cycle(self, world: World) -> None:
        world.add("w1", stages={"index": {"deadlineSeconds": 7200}})
        world.run(until="index")
        (name,) = world.running()
        world.now += timedelta(seconds=7100)
        world.end_job(name, None)
        world.settle()
        (asks,) = world.running()
        world.remove_job(asks)
        world.refusals[asks] = Refusal("denied", is_permanent=False)
        world.look()
        world.now += timedelta(seconds=7100)
        world.look()
        assert world.condition("w1", "Progressing") == ("False", "JobRefused", "denied")
        world.now += timedelta(seconds=100)
        world.look()
        said = f"index: {asks} is refused: denied"
        assert world.condition("w1", "Succeeded") == ("False", "ResultUnknown", said)
        world.annotate("w1", retry="1")
        assert world.run() == ALL[6:]
