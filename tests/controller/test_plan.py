"""Plans, one cycle or several, from apply to their ends, without a cluster."""

from __future__ import annotations

from datetime import timedelta

import pytest
from controller_world import ALL, KEPT, RESULTS, WINNER, World

from controller.observed import Refusal
from controller.plan import plan
from controller.settings import MailSettings
from jobs.contracts.errors import InputError, StoppedError


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


class TestClocks:
    def test_a_clock_that_jumps_changes_nothing_but_deadlines(self, world: World) -> None:
        world.add("w1", stages={"train": {"deadlineSeconds": 7200}})
        world.run(until="train")
        world.now -= timedelta(days=400)
        assert world.look() == 0
        world.now += timedelta(days=400, hours=1)
        assert world.look() == 0
        assert world.run()[-1] == "promote"


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
        world.refuse_job("jobs.batch is forbidden: exceeded quota: few")
        world.look()
        assert world.condition("w1", "Progressing")[1] == "QuotaExceeded"  # type: ignore[index]
        world.now += timedelta(minutes=30)
        observed = world.observed()
        wake = plan(observed.cycles[0], observed, world.settings, world.now).wake
        assert wake == world.now + timedelta(seconds=30), "it is tried again, and not all the time"

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
