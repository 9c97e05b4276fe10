"""Training on several nodes: the Job's own command as its ranks, and a rank that fails on a real control plane."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster.kubelet import Play
from controller_process import operator, played
from servers.s3 import free_port
from stage_jobs import wanted

from controller.manifests import document, stage_job
from controller.pods import FILE, TERMINATION_LOG
from jobs.contracts.termination import decode

if TYPE_CHECKING:
    from cluster.api import Object
    from cluster.control_plane import ControlPlane
    from cluster.kubelet import Kubelet
    from conftest import Refrain

INDEX = "batch.kubernetes.io/job-completion-index"
BIN = Path(sys.executable).parent


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_ranks_of_a_job_train_as_one(tmp_path: Path, refrain: Refrain) -> None:
    """Each rank's command and variables are those of the Job; only the name of the first one's pod is not."""
    pytest.importorskip("torch", reason="the training half needs the extra `train`")
    container, file = _prepared(tmp_path, refrain)
    _train(container, file, tmp_path)
    told = decode((tmp_path / "told-0").read_text(), "train", 0)
    assert told is not None
    assert told.result is not None
    assert not (tmp_path / "told-1").exists(), "one rank speaks for all"
    again = refrain("result", "train", file, "--termination-log", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    assert decode((tmp_path / "again").read_text(), "train", 0) == told
    (state,) = sorted((tmp_path / "store/workshop/cycles/w1/train").rglob("state.json"))[-1:]
    assert {one["num_processes"] for one in json.loads(state.read_text())["seen"]} == {2}


_WATCHED = """
import os
if "LOCAL_RANK" in os.environ:  # of a rank, not of its launcher
    from jobs.ml.training import run, sharding
    def shard(model, *args):
        whole = sharding.local_bytes(model)
        original(model, *args)
        with open(os.path.join(os.environ["SHARES"], os.environ["RANK"]), "w") as file:
            file.write(str(sharding.local_bytes(model) / whole))
    original, run.shard = run.shard, shard
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_ranks_of_a_job_share_one_model(tmp_path: Path, refrain: Refrain) -> None:
    """From the cycle's shardModel, by the Job's own command, to weights that no rank holds all of."""
    pytest.importorskip("torch", reason="the training half needs the extra `train`")
    container, file = _prepared(tmp_path, refrain, shardModel=True)
    shares = tmp_path / "shares"
    shares.mkdir()
    (tmp_path / "watched").mkdir()
    (tmp_path / "watched/sitecustomize.py").write_text(_WATCHED)
    _train(container, file, tmp_path, PYTHONPATH=str(tmp_path / "watched"), SHARES=str(shares))
    held = {path.name: float(path.read_text()) for path in shares.iterdir()}
    assert held.keys() == {"0", "1"}
    assert max(held.values()) <= 0.6
    told = decode((tmp_path / "told-0").read_text(), "train", 0)
    assert told is not None
    assert told.result is not None
    assert told.result["last_loss"] < told.result["first_loss"]


def _train(container: Object, file: Path, folder: Path, **variables: str) -> None:
    port = free_port()
    ranks = [_rank(container, file, number, port, folder, variables) for number in range(2)]
    said = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said


def _prepared(folder: Path, refrain: Refrain, **training: bool) -> tuple[Object, Path]:
    """The container of a training on two nodes, and the file that it reads, over an archive that has come so far."""
    from local.models import whole_cycle, write_mbox, write_models

    place = write_models(folder / "place")
    write_mbox(place / "1.mbox", num_mails=40)
    cycle = whole_cycle("w1", str(place / "1.mbox"), store={"url": (folder / "store").as_uri()})
    cycle["spec"]["model"]["base"] = str(place / "base")
    cycle["spec"]["training"] |= {"nodes": 2, **training}
    planning, entry = wanted({"spec": cycle["spec"], "stage": "train", "settings": {"gpuResource": ""}})
    file = folder / "cycle.json"
    file.write_text(json.dumps(document(planning.cycle)))
    done = refrain("run", file, "--until", "sample", "--workers", 1)
    assert done.returncode == 0, done.stderr
    (container,) = stage_job(planning, entry)["spec"]["template"]["spec"]["containers"]
    return container, file


def _rank(
    container: Object, file: Path, number: int, port: int, folder: Path, variables: Mapping[str, str]
) -> subprocess.Popen[str]:
    """One rank, as the kubelet would start its container."""
    told = folder / f"told-{number}"
    words = " ".join([*container["command"], *container["args"]])
    words = words.replace("$(JOB_COMPLETION_INDEX)", str(number)).replace("29500", str(port))
    words = words.replace(FILE, str(file)).replace(TERMINATION_LOG, str(told)).replace("9400", str(free_port()))
    words, num_names = re.subn(r"--master-addr=w1-train-0-0-\w+-0\.train-\w+", "--master-addr=127.0.0.1", words)
    assert num_names == 1, words
    scratch = folder / f"scratch-{number}"
    scratch.mkdir()
    own = {item["name"]: item["value"] for item in container["env"]}
    own |= {"TMPDIR": str(scratch), "HOME": str(scratch), "HF_HOME": str(scratch), "CUDA_VISIBLE_DEVICES": ""}
    environment = os.environ | own | dict(variables) | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    return subprocess.Popen(
        words.split(), env=environment, cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.cluster
def test_one_rank_that_fails_begins_all_again(
    control_plane: ControlPlane, kubelet: Kubelet, namespace: str, tmp_path: Path
) -> None:
    """The Job controller ends the other rank, and none of the next run starts beside it."""

    happened: list[str] = []

    @contextlib.contextmanager
    def noted(_pod: Object) -> Iterator[None]:
        yield
        happened.append("rank 0 has ended")

    def rule(pod: Object) -> Play:
        stage, run, index = _place(pod)
        if stage != "train" or run != "0":
            happened.append(f"{stage} {run}")
            return played(pod)
        return Play(exit_code=1, seconds=1) if index == "1" else Play(hang=True, stop_seconds=2, during=noted)

    kubelet.rule = rule
    kubelet.offer_gpus(4)
    with operator(control_plane, namespace, tmp_path) as made:
        made.start()
        made.create("w1", training={"nodes": 2})
        status = made.wait("w1", "Promoted")
        reasons = [event["reason"] for event in made.events()]
        (ended,) = [pod for pod in made.pods() if _place(pod) == ("train", "0", "1")]
        begun = [pod for pod in made.pods() if _place(pod)[:2] == ("train", "1")]
    assert happened.index("rank 0 has ended") < happened.index("train 1")
    assert next(one for one in status["stages"] if one["name"] == "train")["run"] == 1
    assert reasons.count("RanksLost") == 1
    assert ended["status"]["phase"] == "Failed"
    assert sorted(pod["metadata"]["labels"][INDEX] for pod in begun) == ["0", "1"]


def _place(pod: Object) -> tuple[str, str, str]:
    labels = pod["metadata"]["labels"]
    return labels["refrain.dev/stage"], labels["refrain.dev/run"], labels.get(INDEX, "")
