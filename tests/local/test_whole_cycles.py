"""Whole cycles with a tiny base model: killed behind each write, and three weeks through the real command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from local.cycles import WEEKS, write_mbox
from local.killing import contents

pytest.importorskip("torch", reason="the training half needs the extra `train`")

from local.models import whole_cycle, write_models
from local.warm import Warm

from jobs.contracts.artifacts import finished_key
from jobs.contracts.records import Json
from jobs.contracts.store import open_store
from jobs.production import records

if TYPE_CHECKING:
    from conftest import Refrain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def place(models: Path, tmp_path: Path) -> Path:
    """A folder with the models, and mail of the first week."""
    place = tmp_path / "place"
    place.mkdir()
    for name in ("base", "embedder"):
        (place / name).symlink_to(models / name)
    write_mbox(place / "1.mbox", weeks=WEEKS[:1], num_mails=60)
    return place


@pytest.fixture
def warm(tmp_path: Path) -> Iterator[Warm]:
    warm = Warm(tmp_path / "warm.log")
    yield warm
    warm.stop()


def test_the_training_half_killed_behind_each_write(warm: Warm, place: Path, tmp_path: Path) -> None:
    """A run dies behind every write that none before it has died behind, on one archive, until one comes through."""
    cycle = whole_cycle(
        "w1", "1.mbox", selection={"strategy": "LowestLoss", "improvementThreshold": 10, "maxRetrainAttempts": 1}
    )
    undisturbed, killed = (tmp_path / name for name in ("undisturbed", "killed"))
    assert warm.run(cycle, place, undisturbed.as_uri())[0] == 0, warm.said()
    expected = contents(undisturbed.as_uri())
    assert [record.cycle for record in records(open_store(undisturbed.as_uri()))] == ["w1"]
    _data_half_of(undisturbed, killed)
    passed: list[str] = []
    while (ended := warm.run(cycle, place, killed.as_uri(), passed))[0] == -9:
        passed.append(ended[1])
    assert ended == (0, ""), warm.said()
    assert contents(killed.as_uri()) == expected
    keys = {write.split()[1] for write in passed}
    trained = {key for key in expected if key.split("/")[0] in ("production", "history", "index", "base.json")}
    assert trained | {key for key in expected if "/retrain-1/" in key} | {finished_key("w1")} <= keys
    stages = {key.split("/")[2] for key in keys if key.startswith("cycles/")}
    assert {"train", "index", "evaluate", "select", "promote"} <= stages


def _data_half_of(whole: Path, part: Path) -> None:
    """An archive as its first cycle has it behind `sample`; a test of its own kills what is before."""
    shutil.copytree(whole, part, symlinks=True)
    for name in ("train", "index", "evaluate", "select", "promote", "retrain-1", "finished.json"):
        path = part / "cycles" / "w1" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in ("index", "production", "history"):
        shutil.rmtree(part / name)
    for name in ("base.json", "speed.json", ".production"):
        (part / name).unlink(missing_ok=True)


@pytest.fixture
def command(refrain: Refrain, place: Path) -> Callable[..., tuple[Json, str]]:
    """Runs the real command on a cycle's document; the status that it printed, and its lines."""

    def run(cycle: Json, *flags: object) -> tuple[Json, str]:
        file = place / f"{cycle['metadata']['name']}.yaml"
        file.write_text(yaml.safe_dump(cycle))
        environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = refrain("run", file, "--json", "--workers", 1, "--device", "cpu", *flags, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    return run


def test_weeks_through_the_command(command: Callable[..., tuple[Json, str]], place: Path) -> None:
    """A promotion, a week without news, a retrain, and one that learnt nothing and is kept out."""
    for number, (week, num_mails) in enumerate(zip(WEEKS[1:], (2, 60, 60), strict=True), 2):
        write_mbox(place / f"{number}.mbox", weeks=(week,), num_mails=num_mails)
    first, told = command(whole_cycle("w1", "1.mbox"))
    assert first["state"] == "Promoted", told
    assert first["incumbent"] is None
    assert first["candidate"]["sha256"] == first["decision"]["winner"]["sha256"]

    second, told = command(whole_cycle("w2", "2.mbox"))
    assert (second["state"], [one["name"] for one in second["stages"]]) == ("Skipped", ["parse", "split", "window"])
    assert "minNewMessages is 4" in told

    again = {"strategy": "LowestLoss", "improvementThreshold": 10, "maxRetrainAttempts": 1}
    third, told = command(whole_cycle("w3", "3.mbox", selection=again))
    assert [(one["name"], one["attempt"]) for one in third["stages"] if one["attempt"]] == [
        *(("sample", 1), ("train", 1), ("evaluate", 1), ("select", 1), ("promote", 1))
    ], told
    assert third["incumbent"]["sha256"] == first["candidate"]["sha256"]
    assert third["state"] in ("Promoted", "NotPromoted")

    nothing = {"epochs": 1, "batchSize": 4, "learningRate": 1e-12, "precision": "fp32"}
    fourth, told = command(whole_cycle("w4", "4.mbox", training=nothing))
    assert fourth["state"] == "NotPromoted", told
    assert fourth["windowIdx"] == 3

    store = open_store((place / "store" / "workshop").as_uri())
    promoted = [name for name, status in (("w1", first), ("w3", third)) if status["state"] == "Promoted"]
    assert [record.cycle for record in records(store)] == promoted
    assert list(store.list("history/")) == [
        f"history/{window:06d}-{name}.json" for window, name in ((0, "w1"), (2, "w3"), (3, "w4"))
    ]
    before = contents(store.url)
    assert command(whole_cycle("w4", "4.mbox", training=nothing))[0] == fourth
    assert contents(store.url) == before


def test_a_mail_is_forgotten_and_the_adapter_made_anew(
    command: Callable[..., tuple[Json, str]], refrain: Refrain, place: Path
) -> None:
    """As docs/archive.md says: texts go, `show` lists who has seen it, a rollback, and the newest week once more."""
    write_mbox(place / "2.mbox", weeks=WEEKS[1:2], num_mails=60)
    first, told = command(whole_cycle("w1", "1.mbox"))
    assert first["state"] == "Promoted", told
    second, told = command(whole_cycle("w2", "2.mbox", promotion={"gate": {"confidence": 0.5, "minThreads": 2}}))
    archive = place / "store" / "workshop"
    digest = next(iter(json.loads((archive / "cycles/w1/train/exposures.json").read_text())["messages"]))

    def show() -> Json:
        shown = refrain("show", digest, "--store", archive.as_uri(), "--json")
        assert shown.returncode == 0, shown.stderr
        return json.loads(shown.stdout)

    before = show()
    seen = [(one["cycle"], one["production"], one["went_on_from"]) for one in before["adapters"]]
    assert seen == [("w1", [1], ""), ("w2", [2] if second["state"] == "Promoted" else [], "w1")], told
    assert before["newest_clean"] == 0
    for path in [*archive.glob("*/000000/*"), *archive.glob("cycles/*/parse/messages.jsonl.zst")]:
        if path.parts[-3] in ("chunks", "messages", "lengths") or path.parent.name == "parse":
            path.unlink()
    assert show()["adapters"] == before["adapters"]
    assert refrain("promote", "--rollback", "--to", 0, "--store", archive.as_uri()).returncode == 0

    anew, told = command(whole_cycle("w2-anew", "", sources=[]))
    assert (anew["windowIdx"], anew["incumbent"]["adapter"]) == (1, None), told
    counted = json.loads((archive / "cycles/w2-anew/train/exposures.json").read_text())
    assert counted["messages"]
    assert counted["starts_from"] == ""
    assert digest not in counted["messages"].keys() | counted["context"].keys()
    after = show()
    assert (after["adapters"], after["newest_clean"]) == (before["adapters"], None)


def test_stages_in_processes_of_their_own_leave_the_same_bytes(
    command: Callable[..., tuple[Json, str]], place: Path
) -> None:
    cycle = whole_cycle("w1", "1.mbox")
    whole, _ = command(cycle)
    url = (place / "single").as_uri()
    for one in whole["stages"]:
        status, _ = command(cycle, "--store", url, "--only", one["name"])
    assert status == whole
    assert contents(url) == contents((place / "store" / "workshop").as_uri())
