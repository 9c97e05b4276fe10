"""Evaluation shared among machines, over a store: `refrain run --share` and `--gather`, each a process of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch", reason="the training half needs the extra `train`")

from local.cycles import WEEKS, write_mbox
from local.killing import contents
from local.models import whole_cycle, write_models
from local.test_light_install import light

if TYPE_CHECKING:
    from conftest import Refrain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SHARES = "cycles/w1/evaluate/shares/"
RESULTS = "cycles/w1/evaluate/eval_results.json"
EVALUATE = ("run", "cycle.json", "--only", "evaluate")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, refrain: Refrain) -> Path:
    """A folder with a cycle's file, and its store as far as the index."""
    place = write_models(tmp_path_factory.mktemp("place"))
    write_mbox(place / "1.mbox", weeks=WEEKS[:1], num_mails=60)
    (place / "cycle.json").write_text(json.dumps(whole_cycle("w1", "1.mbox")))
    done = refrain("run", "cycle.json", "--until", "index", "--workers", 1, "--device", "cpu", cwd=place)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def scored(trained: Path, tmp_path: Path, refrain: Refrain) -> Path:
    """Another store of it, with shares 0 and 2 of three."""
    place = copied(trained, tmp_path / "scored")
    for index in (0, 2):
        done = refrain(*EVALUATE, "--share", f"{index}/3", cwd=place)
        assert done.returncode == 0, done.stderr
        assert f"share {index}/3" in done.stderr
    return place


def copied(place: Path, to: Path) -> Path:
    """Another one; the cycle's models stay where they are, for their place stands in what is written."""
    to.mkdir()
    cycle = json.loads((place / "cycle.json").read_text())
    cycle["spec"]["model"]["base"] = str(place / "base")
    cycle["spec"]["evaluation"]["embeddingModel"] = str(place / "embedder")
    (to / "cycle.json").write_text(json.dumps(cycle))
    shutil.copytree(place / "store", to / "store")
    return to


def archive(place: Path) -> dict[str, bytes]:
    return contents((place / "store" / "workshop").as_uri())


def test_the_store_is_as_if_one_machine_had_scored_all(
    trained: Path, scored: Path, tmp_path: Path, refrain: Refrain
) -> None:
    """A share that is missing is asked for, one that is done is not done again; no model is needed at the end."""
    whole = copied(trained, tmp_path / "whole")
    done = refrain(*EVALUATE, "--device", "cpu", cwd=whole)
    assert done.returncode == 0, done.stderr
    missing = refrain(*EVALUATE, "--gather", 3, cwd=scored)
    assert missing.returncode == 66, missing.stderr
    assert "share 1 of 3 of evaluate has not finished" in missing.stderr
    assert refrain(*EVALUATE, "--share", "1/3", cwd=scored).returncode == 0
    before = archive(scored)
    again = refrain(*EVALUATE, "--share", "1/3", cwd=scored)
    assert "had finished: share 1/3" in again.stderr
    assert archive(scored) == before
    gathered = light(tmp_path, "run", scored / "cycle.json", "--only", "evaluate", "--gather", 3)
    assert gathered.returncode == 0, gathered.stderr
    found = {key: data for key, data in archive(scored).items() if not key.startswith(SHARES)}
    assert found == archive(whole)
    assert sum(key.startswith(SHARES) for key in archive(scored)) == 3


def test_a_share_that_is_lost_for_good_is_done_without(scored: Path, tmp_path: Path, refrain: Refrain) -> None:
    log = tmp_path / "termination-log"
    arguments = ("--gather", 3, "--without", "1", "--termination-log", log)
    done = refrain(*EVALUATE, *arguments, cwd=scored)
    assert done.returncode == 0, done.stderr
    told = json.loads(log.read_text())["result"]
    results = json.loads(archive(scored)[RESULTS])
    assert results["not_scored"] == told["not_scored"]
    assert told["num_not_scored"] == 1
    assert f"not scored, for their pods failed: {told['not_scored'][0]}" in done.stderr
    chosen = refrain("run", "cycle.json", "--only", "select", cwd=scored)
    assert chosen.returncode == 0, chosen.stderr
    assert "not scored, and so no candidates" in chosen.stderr


def test_shares_of_what_has_changed_since_do_not_count(scored: Path, refrain: Refrain) -> None:
    file = scored / "cycle.json"
    cycle = json.loads(file.read_text())
    cycle["spec"]["evaluation"]["topK"] = 3
    file.write_text(json.dumps(cycle))
    done = refrain(*EVALUATE, "--gather", 3, cwd=scored)
    assert done.returncode == 66
    assert "share 0 of 3 of evaluate has not finished" in done.stderr


def test_a_damaged_share_is_told(scored: Path, refrain: Refrain) -> None:
    (scored / "store" / "workshop" / f"{SHARES}0-of-3.json").write_bytes(b"{")
    done = refrain(*EVALUATE, "--gather", 3, cwd=scored)
    assert done.returncode == 70
    assert "the share is damaged" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "select", "--share", "0/2"), "--share and --gather are for --only evaluate"),
        (("--share", "0/2"), "--share and --gather are for --only evaluate"),
        (("--only", "evaluate", "--share", "2/2"), "not a share: '2/2'"),
        (("--only", "evaluate", "--share", "0/2", "--gather", "2"), "both --share and --gather"),
        (("--only", "evaluate", "--without", "1"), "--without is for --gather"),
        (("--only", "evaluate", "--gather", "2", "--without", "x"), "not a list of shares: 'x'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    trained: Path, refrain: Refrain, arguments: tuple[str, ...], message: str
) -> None:
    done = refrain("run", "cycle.json", *arguments, cwd=trained)
    assert done.returncode == 2
    assert message in done.stderr
