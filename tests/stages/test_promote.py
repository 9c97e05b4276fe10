"""The promote stage: over stores and plain files, killed, repeated, approved or not, and with bad input."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from selection.builders import decided, put_adapter, put_decision, write_adapter

from jobs.assignments.archive import Archive
from jobs.contracts.errors import ConfigError, InputError, IntegrityError, MissingInputError, OutputError, UsageError
from jobs.contracts.markers import read_marker
from jobs.contracts.store import Store
from jobs.items import seal
from jobs.production import records, roll_back, rollback_target
from jobs.runner import FINISHED_BEFORE, run_in_store
from jobs.stages import Inputs, Outputs
from jobs.stages.promote import LINK, Config, run


@pytest.fixture
def url(tmp_path: Path) -> str:
    return (tmp_path / "archive").as_uri()


@pytest.fixture
def store(url: str) -> Store:
    return Archive.open(url).store


def promoted(store: Store, tmp_path: Path, cycle: str = "w7", incumbent: str = "", **settings: Any) -> dict[str, Any]:
    """Decide for a fresh adapter and promote it."""
    winner = put_adapter(store, cycle, "step_4", tmp_path)
    put_decision(store, cycle, decided("Promote", winner, incumbent))
    return run_in_store("promote", Config(**settings), url=store.url, cycle=cycle)


def contents(store: Store) -> dict[str, bytes]:
    return {key: store.get(key) for key in store.list()}


def test_a_promotion(store: Store, tmp_path: Path) -> None:
    result = promoted(store, tmp_path)
    assert (result["outcome"], result["seq"]) == ("Promoted", 1)
    (record,) = records(store)
    assert (record.cycle, record.adapter, record.window_idx) == ("w7", "cycles/w7/train/checkpoints/step_4", 7)
    assert record.decision == {"reason": "Better", "delta": 0.05, "interval": [0.01, 0.09], "message": "because"}
    history = json.loads(store.get("history/000007-w7.json"))
    assert history == {
        "cycle": "w7",
        "window_idx": 7,
        "outcome": "Promoted",
        "reason": "Better",
        "delta": 0.05,
        "interval": [0.01, 0.09],
        "adapter": record.adapter,
        "sha256": record.sha256,
        "val_windows": [{"window_idx": 1}],
        "before_val_windows": [{"window_idx": 0}],
    }
    assert json.loads(store.get("cycles/w7/promote/production.json"))["sha256"] == record.sha256
    link = tmp_path / "archive" / LINK
    assert b"weights" in (link / "adapter_model.safetensors").read_bytes()
    assert not any(LINK in key for key in store.list())


def test_again_and_again(store: Store, tmp_path: Path) -> None:
    first = promoted(store, tmp_path)
    before = contents(store)
    again = run_in_store("promote", Config(), url=store.url, cycle="w7")
    assert again.pop(FINISHED_BEFORE)
    assert again == first
    assert run_in_store("promote", Config(), url=store.url, cycle="w7", again=True) == first
    assert contents(store) == before


class Killed(BaseException):
    """Stands for kill -9 between two writes."""


def test_killed_behind_each_write_and_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each store is left after one write more; then the stage runs undisturbed: the same objects and bytes."""
    from jobs.contracts.folder_store import FolderStore

    def fresh(name: str) -> Store:
        store = Archive.open((tmp_path / name).as_uri()).store
        winner = put_adapter(store, "w7", "step_4", tmp_path / f"made-{name}")
        put_decision(store, "w7", decided("Promote", winner))
        return store

    undisturbed = fresh("undisturbed")
    run_in_store("promote", Config(), url=undisturbed.url, cycle="w7")
    wanted = contents(undisturbed)
    real = {name: getattr(FolderStore, name) for name in ("put", "put_if_absent", "upload")}
    num_killed = 0
    for number in range(1, 10):
        store, left = fresh(f"killed-{number}"), [number]

        def patched(name: str, left: list[int] = left) -> Any:
            def write(self: Any, key: str, data: Any) -> Any:
                done = real[name](self, key, data)
                left[0] -= not key.startswith("probe")
                if not left[0]:
                    raise Killed
                return done

            return write

        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(FolderStore, name, patched(name))
            try:
                run_in_store("promote", Config(), url=store.url, cycle="w7")
            except Killed:
                num_killed += 1
        run_in_store("promote", Config(), url=store.url, cycle="w7")
        assert contents(store) == wanted, number
    assert num_killed == 4  # the record, the history, production.json, the marker


def test_the_incumbent_stays(store: Store, tmp_path: Path) -> None:
    first = promoted(store, tmp_path)
    put_decision(store, "w8", decided("KeepIncumbent", None, first["sha256"], window_idx=8))
    result = run_in_store("promote", Config(), url=store.url, cycle="w8")
    assert (result["outcome"], result["message"], result["seq"]) == ("NotPromoted", "because", 1)
    assert len(list(records(store))) == 1
    history = json.loads(store.get("history/000008-w8.json"))
    assert (history["outcome"], history["sha256"], history["val_windows"]) == (
        "NotPromoted",
        first["sha256"],
        [{"window_idx": 0}],
    )


def test_nothing_was_ever_good_enough(store: Store) -> None:
    put_decision(store, "w7", decided("KeepIncumbent", None))
    result = run_in_store("promote", Config(), url=store.url, cycle="w7")
    assert (result["outcome"], result["adapter"], result["seq"]) == ("NotPromoted", None, 0)


def test_by_hand(store: Store, tmp_path: Path) -> None:
    waiting = promoted(store, tmp_path, mode="Manual")
    assert waiting["outcome"] == "AwaitingApproval"
    assert f"--approve {waiting['sha256']}" in waiting["message"]
    assert list(records(store)) == []
    assert not list(store.list("history/"))
    assert run_in_store("promote", Config(mode="Manual"), url=store.url, cycle="w7")["outcome"] == "AwaitingApproval"
    with pytest.raises(ConfigError, match="is approved, but the candidate is"):
        run_in_store("promote", Config(mode="Manual", approve="0" * 64), url=store.url, cycle="w7")
    approved = Config(mode="Manual", approve=waiting["sha256"])
    assert run_in_store("promote", approved, url=store.url, cycle="w7")["outcome"] == "Promoted"
    assert run_in_store("promote", Config(mode="Manual"), url=store.url, cycle="w7")["outcome"] == "Promoted"


WITHHELD = "NotReady: no pod has answered with it within 600 s"


def test_a_winner_that_is_withheld(store: Store, tmp_path: Path) -> None:
    first = promoted(store, tmp_path)
    link = (tmp_path / "archive" / LINK).readlink()
    result = promoted(store, tmp_path, "w8", first["sha256"], withhold=WITHHELD)
    assert (result["outcome"], result["reason"]) == ("NotPromoted", "NotReady")
    assert result["message"] == "no pod has answered with it within 600 s"
    assert (result["adapter"], result["seq"], result["delta"]) == (first["adapter"], 1, 0.05), "as select judged it"
    assert [record.cycle for record in records(store)] == ["w7"]
    assert (tmp_path / "archive" / LINK).readlink() == link
    history = json.loads(store.get("history/000007-w8.json"))
    assert (history["outcome"], history["reason"]) == ("NotPromoted", "NotReady")
    assert history["val_windows"] == [{"window_idx": 0}], "those of what stays in service"
    before = contents(store)
    for config in (Config(withhold=WITHHELD), Config()):
        assert run_in_store("promote", config, url=store.url, cycle="w8")["outcome"] == "NotPromoted"
    assert contents(store) == before


def test_approval_that_has_not_come(store: Store, tmp_path: Path) -> None:
    assert promoted(store, tmp_path, mode="Manual")["outcome"] == "AwaitingApproval"
    config = Config(mode="Manual", withhold="ApprovalTimedOut: nobody has approved it within 7 days")
    result = run_in_store("promote", config, url=store.url, cycle="w7")
    assert (result["outcome"], result["reason"], result["seq"]) == ("NotPromoted", "ApprovalTimedOut", 0)


@pytest.mark.parametrize("finished", [True, False])
def test_what_has_been_promoted_cannot_be_withheld(store: Store, tmp_path: Path, finished: bool) -> None:
    promoted(store, tmp_path)
    if not finished:  # killed behind the record
        store.delete("cycles/w7/promote/_SUCCESS.json")
    with pytest.raises(ConfigError, match="step_4 has been promoted: it cannot be withheld any more"):
        run_in_store("promote", Config(withhold=WITHHELD), url=store.url, cycle="w7")
    assert len(list(records(store))) == 1
    assert run_in_store("promote", Config(), url=store.url, cycle="w7")["outcome"] == "Promoted"


def test_there_is_nothing_to_withhold(store: Store) -> None:
    put_decision(store, "w7", decided("KeepIncumbent", None))
    result = run_in_store("promote", Config(withhold=WITHHELD), url=store.url, cycle="w7")
    assert (result["outcome"], result["message"]) == ("NotPromoted", "because")


@pytest.mark.parametrize("said", ["", "NotReady", "NotReady:", "NotReady:  ", "not ready: why", ": why"])
def test_who_withholds_says_why(store: Store, tmp_path: Path, said: str) -> None:
    with pytest.raises(UsageError, match="not a reason and a message"):
        promoted(store, tmp_path, withhold=said)
    assert not list(store.list("history/"))


def test_plain_files_that_are_withheld(tmp_path: Path) -> None:
    (tmp_path / "decision.json").write_bytes(orjson.dumps(decided("Promote", {"path": "step_4", "sha256": "c" * 64})))
    inputs = Inputs({"decision": [tmp_path / "decision.json"]})
    result = run(Config(withhold=WITHHELD), inputs, Outputs({"production": tmp_path / "production.json"}))
    assert (result["outcome"], result["reason"]) == ("NotPromoted", "NotReady")
    assert not os.path.lexists(tmp_path / "production")


def test_a_later_attempt(store: Store, tmp_path: Path) -> None:
    winner = put_adapter(store, "w7", "step_4", tmp_path)
    put_decision(store, "w7", decided("Retrain", None))
    with pytest.raises(ConfigError, match="the decision is to train again"):
        run_in_store("promote", Config(), url=store.url, cycle="w7")
    put_decision(store, "w7", decided("Promote", winner), attempt=1)
    assert run_in_store("promote", Config(), url=store.url, cycle="w7", attempt=1)["outcome"] == "Promoted"
    assert read_marker(store, "promote", "w7") is not None


def test_a_rolled_back_cycle_does_not_come_back(store: Store, tmp_path: Path) -> None:
    promoted(store, tmp_path)
    roll_back(store, rollback_target(list(records(store))))
    (tmp_path / "archive" / LINK).unlink()
    run_in_store("promote", Config(), url=store.url, cycle="w7", again=True)
    assert [one.action for one in records(store)] == ["promote", "rollback"]
    assert not os.path.lexists(tmp_path / "archive" / LINK)


def test_the_incumbent_has_changed_meanwhile(store: Store, tmp_path: Path) -> None:
    promoted(store, tmp_path)
    with pytest.raises(ConfigError, match="is in service, but the decision compared with the bare base model"):
        promoted(store, tmp_path, "w8")


def test_the_checkpoint_was_deleted(store: Store, tmp_path: Path) -> None:
    winner = put_adapter(store, "w7", "step_4", tmp_path)
    put_decision(store, "w7", decided("Promote", winner))
    for key in list(store.list(winner["key"])):
        store.delete(key)
    with pytest.raises(MissingInputError, match="the adapter is not there"):
        run_in_store("promote", Config(), url=store.url, cycle="w7")
    assert not list(store.list("production/"))


def test_a_damaged_adapter(store: Store, tmp_path: Path) -> None:
    winner = put_adapter(store, "w7", "step_4", tmp_path)
    put_decision(store, "w7", decided("Promote", winner))
    store.put(f"{winner['key']}/adapter_model.safetensors", b"weight?")
    with pytest.raises(IntegrityError, match="digest differs"):
        run_in_store("promote", Config(), url=store.url, cycle="w7")
    assert not list(store.list("production/"))


def test_another_adapter_than_evaluate_saw(store: Store, tmp_path: Path) -> None:
    """Its files are what training wrote and are whole; a repeated training may have left them."""
    winner = put_adapter(store, "w7", "step_4", tmp_path)
    put_decision(store, "w7", decided("Promote", winner | {"sha256": "0" * 64}))
    with pytest.raises(IntegrityError, match="evaluate saw 0000"):
        run_in_store("promote", Config(), url=store.url, cycle="w7")
    assert not list(store.list("production/"))


def test_no_decision(store: Store, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="select of cycle w7 has not finished"):
        run_in_store("promote", Config(), url=store.url, cycle="w7")
    with pytest.raises(MissingInputError, match="no such file"):
        run(Config(), Inputs({"decision": [tmp_path / "none.json"]}), Outputs({"production": tmp_path / "p.json"}))


@pytest.mark.parametrize(
    "value",
    [
        *("[]", "{}", '{"outcome": "Perhaps"}', '{"outcome": "Promote", "winner": null}'),
        *('{"outcome": "Promote", "winner": "x"}', '{"outcome": "Promote", "winner": {"path": 5}}'),
    ],
)
def test_what_is_no_decision(tmp_path: Path, value: str) -> None:
    (tmp_path / "decision.json").write_text(value)
    with pytest.raises(InputError, match="not a decision"):
        run(Config(), Inputs({"decision": [tmp_path / "decision.json"]}), Outputs({"production": tmp_path / "p.json"}))


def test_a_decision_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "decision.json").write_text('{"format": 2, "outcome": "KeepIncumbent"}')
    with pytest.raises(IntegrityError, match="format 2; this version reads 1"):
        run(Config(), Inputs({"decision": [tmp_path / "decision.json"]}), Outputs({"production": tmp_path / "p.json"}))


def test_a_command_afterwards(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "told"
    result = promoted(store, tmp_path, after=f'env | grep ^REFRAIN_ | sort > "{out}"')
    assert result["after_exit_code"] == 0
    told = dict(line.split("=", 1) for line in out.read_text().splitlines())
    assert told["REFRAIN_ADAPTER"] == str(tmp_path / "archive" / "cycles/w7/train/checkpoints/step_4")
    assert (told["REFRAIN_CYCLE"], told["REFRAIN_SEQ"], told["REFRAIN_WINDOW_IDX"]) == ("w7", "1", "7")
    assert told["REFRAIN_ADAPTER_SHA256"] == result["sha256"]


def test_a_command_that_fails_takes_nothing_back(store: Store, tmp_path: Path) -> None:
    result = promoted(store, tmp_path, after="exit 3")
    assert (result["outcome"], result["after_exit_code"]) == ("Promoted", 3)
    assert "ended with exit code 3; the promotion stands" in result["notes"][0]
    assert len(list(records(store))) == 1


def on_files(tmp_path: Path, decision: dict[str, Any], **settings: Any) -> dict[str, Any]:
    (tmp_path / "decision.json").write_bytes(orjson.dumps(decision))
    inputs = Inputs({"decision": [tmp_path / "decision.json"], "checkpoints": [tmp_path / "checkpoints"]})
    return run(Config(**settings), inputs, Outputs({"production": tmp_path / "production.json"}))


def test_plain_files(tmp_path: Path) -> None:
    sha256 = write_adapter(tmp_path / "checkpoints" / "step_4", "weights")
    seal(tmp_path / "checkpoints" / "step_4")
    result = on_files(tmp_path, decided("Promote", {"path": "step_4", "sha256": sha256}))
    assert result["outcome"] == "Promoted"
    assert (tmp_path / "checkpoints" / "production").readlink() == Path("step_4")
    link = tmp_path / "live"
    on_files(tmp_path, decided("Promote", {"path": "step_4", "sha256": sha256}), link=str(link))
    assert link.resolve() == tmp_path / "checkpoints" / "step_4"
    kept = on_files(tmp_path, decided("KeepIncumbent", None), link=str(link))
    assert (kept["outcome"], link.resolve().name) == ("NotPromoted", "step_4")
    assert json.loads((tmp_path / "production.json").read_text())["outcome"] == "NotPromoted"


def test_another_adapter_in_the_winner_s_place(tmp_path: Path) -> None:
    sha256 = write_adapter(tmp_path / "made", "another")
    write_adapter(tmp_path / "checkpoints" / "step_4", "weights")
    with pytest.raises(IntegrityError, match="evaluate saw"):
        on_files(tmp_path, decided("Promote", {"path": "step_4", "sha256": sha256}))
    assert not os.path.lexists(tmp_path / "checkpoints" / "production")


def test_a_flat_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step_4.safetensors").write_text("weights")
    waiting = on_files(tmp_path, decided("Promote", {"path": "step_4.safetensors", "sha256": ""}), mode="Manual")
    assert waiting["outcome"] == "AwaitingApproval"
    assert len(waiting["sha256"]) == 64
    decision = decided("Promote", {"path": "step_4.safetensors", "sha256": ""})
    assert on_files(tmp_path, decision, mode="Manual", approve=waiting["sha256"])["outcome"] == "Promoted"
    assert (tmp_path / "checkpoints" / "production").read_text() == "weights"


def test_plain_files_that_are_gone(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="the winner step_4 is not there"):
        on_files(tmp_path, decided("Promote", {"path": "step_4", "sha256": ""}))
    (tmp_path / "checkpoints" / "step_4").mkdir(parents=True)
    with pytest.raises(MissingInputError, match=r"no adapter_model\.safetensors"):
        on_files(tmp_path, decided("Promote", {"path": "step_4", "sha256": ""}))


def test_a_folder_where_the_link_is_to_be(tmp_path: Path) -> None:
    sha256 = write_adapter(tmp_path / "checkpoints" / "step_4", "weights")
    (tmp_path / "checkpoints" / "production").mkdir()
    with pytest.raises(OutputError, match="something that is no link"):
        on_files(tmp_path, decided("Promote", {"path": "step_4", "sha256": sha256}))
