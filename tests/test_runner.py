"""A stage of a cycle over a store: inputs brought, marker last, nothing done twice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from splitting import mail

from jobs import runner
from jobs.assignments.archive import Archive
from jobs.contracts.errors import ConfigError, IntegrityError, MissingInputError, StoppedError, UsageError
from jobs.contracts.markers import read_marker
from jobs.contracts.store import Store
from jobs.items import StoreItems
from jobs.runner import FINISHED_BEFORE, run_in_store
from jobs.stages import Inputs, Outputs, how, parse, rehearse, sample, split, window

CHAIN: list[tuple[str, Any]] = [
    ("split", split.Config(window_period="week", workers=1)),
    ("window", window.Config()),
    ("rehearse", rehearse.Config()),
    ("sample", sample.Config()),
]


def mbox(path: Path, *message_ids: str, week: int = 0) -> Path:
    """A file of mails of some week of 2024."""
    mails = [
        mail(one, day=f"2024-01-{1 + 7 * week:02d}", body=f"Words of {one}.")["email_message"] for one in message_ids
    ]
    path.write_text("".join(f"From x Mon Jan  1 00:00:00 2024\n{one}\n" for one in mails))
    return path


def config(source: Path) -> parse.Config:
    return parse.Config((str(source),), workers=1)


def run_chain(url: str, cycle: str, source: Path) -> dict[str, dict[str, Any]]:
    results = {"parse": run_in_store("parse", config(source), url=url, cycle=cycle)}
    return results | {name: run_in_store(name, settings, url=url, cycle=cycle) for name, settings in CHAIN}


def contents(store: Store) -> dict[str, bytes]:
    return {key: store.get(key) for key in store.list()}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return (tmp_path / "archive").as_uri()


@pytest.fixture
def store(url: str) -> Store:
    return Archive.open(url).store


def test_two_cycles_from_mail_to_schedule(url: str, store: Store, tmp_path: Path) -> None:
    first = run_chain(url, "w1", mbox(tmp_path / "1.mbox", *(f"{n}@x" for n in range(12))))
    assert (first["split"]["window_idx"], first["split"]["num_new"]) == (0, 12)
    second = run_chain(url, "w2", mbox(tmp_path / "2.mbox", *(f"{n}@y" for n in range(12)), week=1))
    assert second["window"]["window_idx"] == second["sample"]["window_idx"] == 1
    marker = read_marker(store, "sample", "w2")
    assert marker is not None
    assert set(marker["inputs"]) == {"assignments", "new_train", "manifest"}
    assert store.exists(marker["outputs"]["schedule"]["key"])
    assert second["rehearse"]["num_manifest_chunks"] == first["split"]["num_chunks"]["train"]


def test_running_again_changes_nothing(url: str, store: Store, tmp_path: Path) -> None:
    source = mbox(tmp_path / "1.mbox", "a@x", "b@x")
    first = run_chain(url, "w1", source)
    before = contents(store)
    again = run_chain(url, "w1", source)
    assert [name for name, result in again.items() if result.pop(FINISHED_BEFORE, False)] == [name for name, _ in CHAIN]
    assert again == first
    assert contents(store) == before


def test_remote_mail_is_not_read_again() -> None:
    assert parse.reads_again(parse.Config(("week.mbox", "file:///mail/week.mbox", "-")))
    assert not parse.reads_again(parse.Config(("week.mbox", "imaps://ann@example.org/INBOX")))
    assert not parse.reads_again(parse.Config(("s3://mail/week.mbox",)))


def test_a_cycle_whose_mail_is_all_there_already_is_skipped(url: str, store: Store, tmp_path: Path) -> None:
    source = mbox(tmp_path / "1.mbox", *(f"{n}@x" for n in range(20)))
    assert run_chain(url, "w1", source)["window"]["skipped"] is False
    second = run_chain(url, "w2", source)
    assert second["split"]["num_new"] == 0
    assert (second["window"]["num_new_train_chunks"], second["window"]["skipped"]) == (0, True)
    assert orjson.loads(store.get("cycles/w2/window/new_train.json")) == []


def test_a_cycle_without_sources_works_on_what_the_log_holds(url: str, tmp_path: Path) -> None:
    first = run_chain(url, "w1", mbox(tmp_path / "1.mbox", *(f"{n}@x" for n in range(20))))
    run_in_store("parse", parse.Config(()), url=url, cycle="w2")
    for name, settings in CHAIN:
        second = run_in_store(name, settings, url=url, cycle="w2")
        if name == "window":
            assert second["num_new_train_chunks"] == first["window"]["num_new_train_chunks"] > 0
            assert second["skipped"] is False


def test_a_stage_that_lost_its_marker_writes_the_same_bytes(url: str, store: Store, tmp_path: Path) -> None:
    source = mbox(tmp_path / "1.mbox", "a@x", "b@x")
    run_chain(url, "w1", source)
    before = contents(store)
    for name in ("parse", "split", "window", "rehearse", "sample"):
        store.delete(f"cycles/w1/{name}/_SUCCESS.json")
        run_chain(url, "w1", source)
        assert contents(store) == before, name


def test_a_stage_runs_again_where_what_it_read_has_changed(url: str, store: Store, tmp_path: Path) -> None:
    source = mbox(tmp_path / "1.mbox", "a@x")
    run_chain(url, "w1", source)
    mbox(source, "a@x", "b@x")
    assert run_in_store("parse", config(source), url=url, cycle="w1")["num_kept"] == 2
    assert run_in_store("split", CHAIN[0][1], url=url, cycle="w1")["num_new"] == 2
    before = read_marker(store, "window", "w1")
    run_in_store("window", window.Config(), url=url, cycle="w1")
    assert read_marker(store, "window", "w1") != before


def test_a_stage_needs_those_before_it(url: str, store: Store, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="parse of cycle w1 has not finished"):
        run_in_store("split", split.Config(), url=url, cycle="w1")
    run_in_store("parse", config(mbox(tmp_path / "1.mbox", "a@x")), url=url, cycle="w1")
    with pytest.raises(MissingInputError, match="split of cycle w1 has not finished"):
        run_in_store("window", window.Config(), url=url, cycle="w1")
    assert read_marker(store, "window", "w1") is None


@pytest.mark.parametrize("name", ["split", "window", "rehearse", "sample"])
def test_only_parse_begins_an_archive(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingInputError):
        run_in_store(name, dict(CHAIN)[name], url=(tmp_path / "mistyped").as_uri(), cycle="w1")
    assert not (tmp_path / "mistyped").exists()


def test_other_settings_than_it_finished_with_are_refused(url: str, tmp_path: Path) -> None:
    run_chain(url, "w1", mbox(tmp_path / "1.mbox", "a@x"))
    with pytest.raises(ConfigError, match="epochs = 3, not 5"):
        run_in_store("sample", sample.Config(epochs=5), url=url, cycle="w1")
    assert run_in_store("sample", sample.Config(epochs=5), url=url, cycle="w1", again=True)["num_epochs"] == 5


def test_an_artifact_that_was_changed_is_noticed(url: str, store: Store, tmp_path: Path) -> None:
    run_chain(url, "w1", mbox(tmp_path / "1.mbox", "a@x"))
    store.put("cycles/w1/window/new_train.json", b"[]")
    with pytest.raises(IntegrityError, match=r"new_train\.json"):
        run_in_store("sample", sample.Config(), url=url, cycle="w1", again=True)
    assert read_marker(store, "sample", "w1") is None


@pytest.mark.parametrize("cycle", ["", "../other", "a/b", "Big", "x" * 254])
def test_a_cycle_s_name_is_checked(url: str, cycle: str) -> None:
    with pytest.raises(UsageError, match="not a name for a cycle"):
        run_in_store("window", window.Config(), url=url, cycle=cycle)


def test_a_stage_that_fails_leaves_no_marker(url: str, store: Store, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        run_in_store("parse", config(tmp_path / "none.mbox"), url=url, cycle="w1")
    assert list(store.list("cycles/")) == []


class FakeTraining:
    """Stands for the stages behind sample: writes items and a result, and remembers what it was given."""

    def __init__(self) -> None:
        self.seen: list[Inputs] = []
        self.texts: dict[str, list[str]] = {}
        self.fails_after: int | None = None

    def run(self, config: Any, inputs: Inputs, outputs: Outputs) -> dict[str, Any]:
        self.seen.append(inputs)
        files = {kind: [path for path in paths if path.is_file()] for kind, paths in inputs.paths.items()}
        self.texts = {kind: [path.read_text() for path in paths] for kind, paths in files.items()}
        if "checkpoints" in outputs:
            items = outputs.items("checkpoints")
            for number, step in enumerate((5, 10)):
                if number == self.fails_after:
                    raise StoppedError("told to stop")
                (items.folder / f"step_{step}" / "training_state").mkdir(parents=True)
                (items.folder / f"step_{step}" / "adapter").write_text(f"{inputs.attempt} {step}")
                (items.folder / f"step_{step}" / "training_state" / "moments").write_text("moments")
                items.publish(f"step_{step}")
        for kind, path in outputs.paths.items():
            if kind not in outputs.folders:
                path.write_text(f"{kind} {inputs.attempt}")
        return {"attempt": inputs.attempt}


@dataclass(frozen=True)
class AnyConfig:
    rate: float = 1.0
    workers: int | None = how(None)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    fake = FakeTraining()
    real = runner.import_module

    def load(name: str) -> Any:
        return fake if name.rpartition(".")[2] in ("train", "index", "evaluate", "select", "promote") else real(name)

    monkeypatch.setattr(runner, "import_module", load)
    return fake


def run_training(url: str, *names: str, cycle: str = "w1", attempt: int = 0) -> None:
    for name in names:
        run_in_store(name, AnyConfig(), url=url, cycle=cycle, attempt=attempt)


def test_items_go_to_the_store_as_they_come(url: str, store: Store, tmp_path: Path, training: FakeTraining) -> None:
    run_chain(url, "w1", mbox(tmp_path / "1.mbox", "a@x"))
    training.fails_after = 1
    with pytest.raises(StoppedError):
        run_training(url, "train")
    prefix = "cycles/w1/train/checkpoints"
    assert StoreItems(store, prefix, tmp_path).names() == ["step_5"]
    assert read_marker(store, "train", "w1") is None
    training.fails_after = None
    run_training(url, "train", "index", "evaluate")
    marker = read_marker(store, "train", "w1")
    assert marker is not None
    assert list(marker["outputs"]["checkpoints"]["items"]) == ["step_5", "step_10"]
    folder = training.seen[-1].one("checkpoints")
    assert folder.name == "checkpoints"


def test_readers_get_the_items_without_their_training_state(
    url: str, tmp_path: Path, training: FakeTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_chain(url, "w1", mbox(tmp_path / "1.mbox", "a@x"))
    run_training(url, "train", "index")
    brought: list[str] = []

    def look(config: Any, inputs: Inputs, outputs: Outputs) -> dict[str, Any]:
        folder = inputs.one("checkpoints")
        brought.extend(sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))
        return {}

    monkeypatch.setattr(training, "run", look)
    run_training(url, "evaluate")
    assert brought == ["step_10/_COMPLETE.json", "step_10/adapter", "step_5/_COMPLETE.json", "step_5/adapter"]


def test_a_further_attempt_has_artifacts_of_its_own(
    url: str, store: Store, tmp_path: Path, training: FakeTraining
) -> None:
    run_chain(url, "w1", mbox(tmp_path / "1.mbox", *(f"{n}@x" for n in range(20))))
    run_training(url, "train", "index", "evaluate", "select")
    with pytest.raises(MissingInputError, match="sample of cycle w1 has not finished"):
        run_training(url, "train", attempt=1)
    run_in_store("sample", sample.Config(replay_ratio="1:1"), url=url, cycle="w1", attempt=1)
    run_training(url, "train", "evaluate", "select", attempt=1)
    assert training.texts["eval_results"] == ["eval_results 0", "eval_results 1"]
    assert store.exists("cycles/w1/retrain-1/train/checkpoints/step_10/adapter")
    run_training(url, "promote", attempt=1)
    assert training.texts["decision"] == ["decision 1"]
    assert store.exists("cycles/w1/promote/production.json")


def test_the_incumbent_is_what_was_in_service_as_the_cycle_began(
    url: str, store: Store, tmp_path: Path, training: FakeTraining
) -> None:
    run_chain(url, "w1", mbox(tmp_path / "1.mbox", "a@x"))
    run_training(url, "train")
    assert "incumbent" not in training.seen[-1].paths
    key = "cycles/w1/train/checkpoints/step_10"
    record = {"seq": 1, "action": "promote", "cycle": "w1", "adapter": key, "sha256": "d" * 64}
    store.put("production/00000000000000000001.json", orjson.dumps({**record, "window_idx": 0, "decision": {}}))
    before = len(training.seen)
    run_training(url, "train")
    assert len(training.seen) == before, "its own promotion changes nothing for a cycle"
    run_chain(url, "w2", mbox(tmp_path / "2.mbox", "b@x", week=1))
    run_training(url, "train", cycle="w2")
    folder = training.seen[-1].one("incumbent")
    assert folder.name == "step_10"
    marker = read_marker(store, "train", "w2")
    assert marker is not None
    assert marker["inputs"]["incumbent"] == "d" * 64


def test_how_a_stage_works_is_no_setting_of_its_results(url: str, tmp_path: Path, training: FakeTraining) -> None:
    run_chain(url, "w1", mbox(tmp_path / "1.mbox", "a@x"))
    run_training(url, "train")
    assert run_in_store("train", AnyConfig(workers=3), url=url, cycle="w1")[FINISHED_BEFORE]
    with pytest.raises(ConfigError, match=r"rate = 1\.0, not 2\.0"):
        run_in_store("train", AnyConfig(rate=2.0), url=url, cycle="w1")
