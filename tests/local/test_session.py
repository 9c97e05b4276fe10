"""A cycle's course: which stage follows which, how it ends, what it says; the training half is played."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import orjson
import pytest
from local.cycles import cycle_of, workplace, write_mbox
from local.killing import contents
from local.played import ONCE, PLAYED, SHA, Played

from jobs.contracts.artifacts import finished_key
from jobs.contracts.cycle import RetrainCycle
from jobs.contracts.errors import ConfigError, InputError, MissingInputError, StoppedError
from jobs.contracts.progression import Step
from jobs.contracts.store import open_store
from jobs.local.configs import Machine
from jobs.local.session import Session
from jobs.local.speed import tokens_per_second
from jobs.local.status import Status
from jobs.stages import Inputs, Outputs


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    played = Played()
    for stage, kind in PLAYED.items():
        monkeypatch.setattr(import_module(f"jobs.stages.{stage}"), "run", played.play(stage, kind))
    return played


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return workplace(tmp_path / "place")


class Told:
    """A session, with the lines that it said."""

    def __init__(self, cycle: RetrainCycle, **settings: Any) -> None:
        self.lines: list[str] = []
        self.session = Session(cycle, cycle.spec.archive_url, self.lines.append, Machine(workers=1), **settings)

    def run(self, *args: Any, **settings: Any) -> Status:
        return self.session.run(*args, **settings)

    def told(self) -> str:
        return "\n".join(self.lines)


def test_from_mail_to_a_promotion(played: Played, place: Path) -> None:
    told = Told(cycle_of(place))
    status = told.run()
    assert (status.state, status.message, status.step) == ("Promoted", "it gained", None)
    assert played.ran == [(stage, 0) for stage in ONCE]
    stages = [line.split()[0] for line in told.lines if not line.startswith(" ")][:10]
    assert stages == ["parse", "split", "window", "rehearse", "sample", *ONCE]
    assert told.lines[5].startswith(
        "train         4 steps from the base: loss 3.000 to 2.000, val loss 2.100 at step 4; 2 checkpoints  ["
    )
    assert told.lines[8] == "              note: few threads"
    assert told.lines[-1] == "w1: Promoted: it gained"
    report = told.session.report(status)
    assert report["candidate"] is None or report["candidate"]["sha256"] == SHA
    assert (report["state"], report["windowIdx"], report["decision"]["delta"]) == ("Promoted", 0, 0.5)
    assert [one["name"] for one in report["stages"]] == stages
    assert {one["state"] for one in report["stages"]} == {"Succeeded"}


def test_a_file_whose_cycle_has_ended_changes_nothing(played: Played, place: Path) -> None:
    cycle = cycle_of(place)
    Told(cycle).run()
    before, ran = contents(cycle.spec.archive_url), list(played.ran)
    write_mbox(place / "mail.mbox", num_mails=30)
    told = Told(cycle)
    assert told.run().state == "Promoted"
    assert told.lines == ["w1 has finished: Promoted: it gained. Nothing was done now; --again runs it once more"]
    assert (contents(cycle.spec.archive_url), played.ran) == (before, ran)
    assert Told(cycle).session.run_only(Step("train")).state == "Promoted"
    assert played.ran == ran


def test_again_runs_all_of_it(played: Played, place: Path) -> None:
    cycle = cycle_of(place)
    Told(cycle).run()
    played.outcomes = ["KeepIncumbent"]
    told = Told(cycle, again=True)
    assert told.run().state == "NotPromoted"
    assert played.ran == [(stage, 0) for stage in ONCE] * 2
    assert not [line for line in told.lines if "had finished" in line]
    finished = orjson.loads(open_store(cycle.spec.archive_url).get(finished_key("w1")))
    assert finished["state"] == "NotPromoted"


def test_the_incumbent_stays(played: Played, place: Path) -> None:
    played.outcomes = ["KeepIncumbent"]
    told = Told(cycle_of(place))
    assert told.run().state == "NotPromoted"
    assert told.lines[-1] == "w1: NotPromoted: it gained too little"


def test_settings_that_have_changed_are_told_by_the_file_s_own_names(played: Played, place: Path) -> None:
    del played
    Told(cycle_of(place)).run(until="sample")
    changed = Told(cycle_of(place, training={"batchSize": 4, "epochs": 2}))
    with pytest.raises(ConfigError) as caught:
        changed.run()
    error = caught.value
    fields = "training.batchSize from 16 to 4, training.epochs from 3 to 2"
    assert error.what == f"sample has finished, and the file has changed since: {fields}"
    assert "another metadata.name" in error.hint
    assert error.hint.endswith("refrain run --only sample --again")
    again = Told(cycle_of(place, training={"batchSize": 4, "epochs": 2}), again=True)
    again.session.run_only(Step("sample", 0))
    assert Told(cycle_of(place, training={"batchSize": 4, "epochs": 2})).run(until="train").step == Step("index", 0)


def test_too_small_a_gain_trains_again_down_the_ladder(played: Played, place: Path) -> None:
    played.outcomes = ["Retrain", "Retrain", "Promote"]
    told = Told(cycle_of(place, retention={"checkpoints": 2}))
    status = told.run()
    assert status.state == "Promoted"
    further = [(stage, attempt) for attempt in (1, 2) for stage in ("train", "evaluate", "select")]
    assert played.ran == [*((stage, 0) for stage in ONCE[:-1]), *further, ("promote", 2)]
    assert [played.configs["train", attempt].learning_rate for attempt in range(3)] == [2e-4, 1e-4, 5e-5]
    assert [one["attempt"] for one in status.stages if one["name"] == "sample"] == [0, 1, 2]
    assert [line.split("  ")[0] for line in told.lines if line.startswith("train")] == [
        "train",
        "train (2)",
        "train (3)",
    ]
    # The newest two of the cycle, and the winner.
    store = open_store(told.session.url, read_only=True)
    assert [key for key in store.list("cycles/") if key.endswith("_COMPLETE.json")] == [
        "cycles/w1/retrain-2/train/checkpoints/step_1/_COMPLETE.json",
        "cycles/w1/retrain-2/train/checkpoints/step_2/_COMPLETE.json",
        "cycles/w1/train/checkpoints/step_1/_COMPLETE.json",
    ]
    before = list(played.ran)
    assert Told(cycle_of(place)).run().state == "Promoted"
    assert played.ran == before


@pytest.mark.parametrize("stage", PLAYED)
def test_after_a_failure_it_goes_on_where_it_stopped(played: Played, place: Path, stage: str) -> None:
    played.fails[stage] = InputError("broken", where="there", hint="mend it")
    told = Told(cycle_of(place))
    with pytest.raises(InputError) as failure:
        told.run()
    report = told.session.failed(failure.value)
    assert (report["state"], report["stage"], report["message"]) == ("Failed", stage, "there: broken\n  mend it")
    assert [one["name"] for one in report["stages"]][-1] != stage
    again = Told(cycle_of(place))
    assert again.run().state == "Promoted"
    before = ONCE[: ONCE.index(stage)]
    assert played.ran == [(one, 0) for one in [*before, stage, *ONCE[ONCE.index(stage) :]]]
    assert [line.split()[0] for line in again.lines if "had finished" in line][5:] == before


def test_to_be_stopped_is_no_failure(played: Played, place: Path) -> None:
    played.fails["train"] = StoppedError("told to stop")
    told = Told(cycle_of(place))
    with pytest.raises(StoppedError) as stopped:
        told.run()
    report = told.session.failed(stopped.value)
    assert (report["state"], report["stage"]) == ("Running", "train")
    assert Told(cycle_of(place)).run().state == "Promoted"


def test_a_failure_in_a_further_attempt(played: Played, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played.outcomes = ["Retrain", "KeepIncumbent"]
    original = played.play("train", "trainer_state")
    monkeypatch.setattr("jobs.stages.train.run", _failing_at(original, attempt=1))
    with pytest.raises(InputError):
        Told(cycle_of(place)).run()
    monkeypatch.setattr("jobs.stages.train.run", original)
    assert Told(cycle_of(place)).run().state == "NotPromoted"
    assert [one for one in played.ran if one[0] == "evaluate"] == [("evaluate", 0), ("evaluate", 1)]


def _failing_at(original: Callable[..., dict[str, Any]], attempt: int) -> Callable[..., dict[str, Any]]:
    def run(config: Any, inputs: Inputs, outputs: Outputs) -> dict[str, Any]:
        if inputs.attempt == attempt:
            raise InputError("broken")
        return original(config, inputs, outputs)

    return run


def test_a_person_has_to_approve(played: Played, place: Path) -> None:
    told = Told(cycle_of(place, promotion={"mode": "Manual"}))
    status = told.run()
    assert (status.state, status.step) == ("AwaitingApproval", Step("promote"))
    assert told.lines[-1] == f"w1: AwaitingApproval: --approve {SHA}"
    assert not open_store(told.session.url).exists(finished_key("w1"))
    assert Told(cycle_of(place, promotion={"mode": "Manual"})).run().state == "AwaitingApproval"
    assert Told(cycle_of(place, promotion={"mode": "Manual", "approve": SHA})).run().state == "Promoted"
    assert [stage for stage, _ in played.ran] == [*ONCE, "promote", "promote"]


def test_too_little_mail_is_a_success(played: Played, place: Path) -> None:
    told = Told(cycle_of(place, window={"minNewMessages": 500}))
    status = told.run()
    assert status.state == "Skipped"
    assert played.ran == []
    assert told.lines[-1] == f"w1: Skipped: {status.message}"
    assert "minNewMessages is 500" in status.message
    assert told.session.report(status)["decision"] is None


def test_until_a_stage(played: Played, place: Path) -> None:
    played.outcomes = ["Retrain", "KeepIncumbent"]
    told = Told(cycle_of(place))
    assert told.run("index").step == Step("evaluate")
    assert told.lines[-1] == "w1: next is evaluate"
    assert Told(cycle_of(place)).run("select").step == Step("promote", 1)
    assert played.ran[-1] == ("select", 1)


def test_stages_one_by_one_leave_what_a_run_leaves(played: Played, place: Path) -> None:
    played.outcomes = ["Retrain", "Promote"]
    whole = cycle_of(place)
    Told(whole).run()
    single = cycle_of(place, store={"url": "single"})
    store = open_store(single.spec.archive_url)
    for stage in ("parse", "split", "window", "rehearse", "sample", *ONCE[:-1]):
        Told(single).session.run_only(Step(stage))
    for stage in ("sample", "train", "evaluate", "select", "promote"):
        Told(single).session.run_only(Step(stage, 1))
    assert contents(single.spec.archive_url) == contents(whole.spec.archive_url)
    assert store.exists(finished_key("w1"))


def test_one_stage_needs_those_before_it(played: Played, place: Path) -> None:
    Told(cycle_of(place)).run("sample")
    with pytest.raises(MissingInputError, match="evaluate needs"):
        Told(cycle_of(place)).session.run_only(Step("evaluate"))
    with pytest.raises(MissingInputError):
        Told(cycle_of(place, store={"url": "mistyped"})).session.run_only(Step("split"))
    assert not (place / "mistyped").exists()


def test_a_suspended_cycle_does_nothing(played: Played, place: Path) -> None:
    told = Told(cycle_of(place, suspend=True))
    assert told.run().state == "Suspended"
    assert told.lines == ["w1: spec.suspend is true: nothing is done until it is false"]
    assert not (place / "store").exists()
    Told(cycle_of(place)).run("sample")
    status = Told(cycle_of(place, suspend=True)).run()
    assert (status.state, status.step, len(status.stages)) == ("Suspended", Step("train"), 5)


def test_one_stage_of_a_suspended_cycle_runs(played: Played, place: Path) -> None:
    """Who schedules stages has looked at that: a pod that ends well without having run would be believed."""
    status = Told(cycle_of(place, suspend=True)).session.run_only(Step("parse"))
    assert (status.state, status.step) == ("Running", Step("split"))


def test_again_up_to_a_stage_leaves_no_end_of_before(played: Played, place: Path) -> None:
    cycle = cycle_of(place, window={"minNewMessages": 1000})
    assert Told(cycle).run().state == "Skipped"
    told = Told(cycle_of(place, window={"minNewMessages": 2}), again=True)
    status = told.run("split")
    assert (status.state, status.step) == ("Running", Step("window"))
    assert told.lines[-1] == "w1: next is window"
    assert not open_store(told.session.url).exists(finished_key("w1"))
    assert Told(cycle_of(place, window={"minNewMessages": 2})).run().state == "Promoted"


def test_one_stage_again_leaves_no_later_attempt_of_before(played: Played, place: Path) -> None:
    played.outcomes = ["Retrain", "Promote"]
    assert Told(cycle_of(place)).run().state == "Promoted"
    status = Told(cycle_of(place), again=True).session.run_only(Step("evaluate"))
    assert (status.state, status.step) == ("Running", Step("select"))
    status = Told(cycle_of(place)).session.run_only(Step("select"))
    assert (status.state, status.step) == ("Running", Step("sample", 1))


def test_fields_about_pods_are_named_once(played: Played, place: Path) -> None:
    told = Told(cycle_of(place, training={"nodes": 2}, ttlSecondsAfterFinished=5))
    told.run("window")
    notes = [line for line in told.lines if line.startswith("note")]
    assert notes == ["note: without a cluster these fields do nothing: training.nodes, ttlSecondsAfterFinished"]


def test_other_settings_than_it_was_begun_with_are_refused(played: Played, place: Path) -> None:
    Told(cycle_of(place)).run("sample")
    with pytest.raises(ConfigError, match=r"spec: sample has finished, .*training\.epochs from 3 to 5"):
        Told(cycle_of(place, training={"epochs": 5})).run()


def test_mail_that_came_while_the_cycle_ran_is_left_to_the_next(played: Played, place: Path) -> None:
    first = Told(cycle_of(place)).run("split").result("split")
    write_mbox(place / "mail.mbox", num_mails=30)
    assert Told(cycle_of(place)).run().result("split") == first
    assert Told(cycle_of(place, "w2")).run().result("split")["num_new"] == 18


def test_retention_at_the_end_of_a_cycle(played: Played, place: Path) -> None:
    for number, week in enumerate(("2024-01-01", "2024-01-08", "2024-01-15"), 1):
        write_mbox(place / "mail.mbox", weeks=(week,))
        cycle = cycle_of(place, f"w{number}", retention={"cycles": 1, "checkpoints": 1})
        told = Told(cycle, cleanup=number != 2)
        told.run()
        cycles = {key.split("/")[1] for key in open_store(told.session.url).list("cycles/") if "/parse/" in key}
        assert cycles == {1: {"w1"}, 2: {"w1", "w2"}, 3: {"w3"}}[number]
        assert any(line.startswith("retention:") for line in told.lines) == (number == 3)
    told = Told(cycle_of(place, "w1"))
    assert told.run().state == "Promoted", "how it ended is known when its artifacts have gone"


def test_speed_is_noted_where_training_was_not_interrupted(played: Played, place: Path) -> None:
    told = Told(cycle_of(place))
    told.run()
    assert tokens_per_second(open_store(told.session.url)) > 0
    gone_on = Told(cycle_of(place, store={"url": "second"}))
    gone_on.run("sample")
    store = open_store(gone_on.session.url)
    store.put("cycles/w1/train/checkpoints/step_1/adapter_model.safetensors", b"")
    gone_on.run()
    assert tokens_per_second(store) is None
