"""The images as they were built: how large they are, what is in them, and that their commands start."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mailgen import write_mbox

from images.containers import Container
from jobs import __version__
from jobs.contracts.stages import STAGES, Stage

pytestmark = pytest.mark.e2e

LARGEST_MB = {"controller": 250, "jobs": 6_000, "minio": 250}
Image = Callable[[str], tuple[str, Path, dict]]
Started = Callable[[str], Container]


@pytest.mark.parametrize("name", LARGEST_MB)
def test_sizes(name: str, image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    full, _, _ = image(name)
    listed = subprocess.run(["buildah", "images", "--json", full], capture_output=True, text=True, check=True).stdout
    number, unit = json.loads(listed)[0]["size"].split()
    size = float(number) * {"MB": 1, "GB": 1000}[unit]
    with capsys.disabled():
        sys.stdout.write(f"\n{full}: {size:,.0f} MB ")
    assert size <= LARGEST_MB[name]


@pytest.mark.parametrize("name", LARGEST_MB)
def test_nothing_that_builds_is_left(name: str, image: Image) -> None:
    _, root, config = image(name)
    folders = ("usr/bin", "usr/local/bin", "opt/refrain/bin")
    programs = {path.name for folder in folders for path in (root / folder).glob("*")}
    assert not programs & {"pip", "pip3", "uv", "gcc", "cc", "ld", "strip", "go", "make", "apt-get", "sh", "bash"}
    site = root / "opt/refrain/lib/python3.11/site-packages"
    assert not {path.name for path in site.glob("*")} & {"pip", "uv", "wheel", "hatchling", "triton"}
    assert not [path for folder in ("root/.cache", "var/cache", "build") for path in (root / folder).glob("*")]
    assert config["User"] == "65532:65532"
    assert config["Labels"]["org.opencontainers.image.title"] == f"refrain-{name}"
    assert len(config["Labels"]["org.opencontainers.image.revision"]) == 40


def test_the_light_image_has_no_torch(image: Image) -> None:
    _, root, _ = image("controller")
    names = {path.name for path in (root / "opt/refrain/lib/python3.11/site-packages").iterdir()}
    assert not names & {"torch", "transformers", "nvidia", "scipy", "faiss", "sentence_transformers"}
    assert {"kopf", "pyarrow", "jobs", "controller"} <= names


@pytest.mark.parametrize("name", ["controller", "jobs"])
def test_refrain_is_the_command(name: str, container: Started) -> None:
    started = container(name)
    assert started.config["Entrypoint"] == ["refrain"]
    done = started.run("refrain", "--version")
    assert (done.stdout, done.returncode) == (f"refrain, version {__version__}\n", 0), done.stderr


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_stage_starts_in_its_image(stage: Stage, container: Started) -> None:
    done = container("jobs" if stage.image == "heavy" else "controller").run("refrain", stage.name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: refrain {stage.name}")


def test_light_stages_run_over_mail(container: Started) -> None:
    started = container("controller")
    (started.folder / "shared").mkdir()
    write_mbox(started.folder / "shared" / "mail.mbox", 30)
    for arguments in (
        ["parse", "/shared/mail.mbox", "--output", "/shared/parsed"],
        ["split", "-i", "/shared/parsed", "-m", "/shared/assignments.json", "-o", "/shared/splits"],
        ["log", "verify", "/shared/assignments.archive"],
    ):
        done = started.run("refrain", *arguments)
        assert done.returncode == 0, (arguments, done.stderr)
    assert json.loads((started.folder / "shared" / "assignments.json").read_text())


def test_the_root_is_read_only_and_the_network_is_not_there(container: Started) -> None:
    code = "import pathlib; pathlib.Path('/tmp/a').write_text('x'); pathlib.Path('/opt/refrain/a').write_text('x')"
    done = container("controller").run("python", "-c", code)
    assert "Read-only file system" in done.stderr


def test_the_controller_talks_to_an_api_server(container: Started) -> None:
    started = container("controller")
    (started.folder / "shared").mkdir()
    cluster = {"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "mail"}}
    kubeconfig = {"clusters": [cluster], "contexts": [context], "users": [{"name": "u", "user": {}}]}
    text = json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "c", **kubeconfig})
    (started.folder / "shared" / "kubeconfig").write_text(text)
    done = started.run("refrain", "cycle", "list", KUBECONFIG="/shared/kubeconfig")
    assert done.returncode != 0
    assert "127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_trains_and_serves_can_be_imported(container: Started) -> None:
    names = "torch, transformers, peft, faiss, sentence_transformers, accelerate, bm25s, sacrebleu, starlette, uvicorn"
    done = container("jobs").run("python", "-c", f"import {names}; print(torch.ones(2).sum())", HF_HUB_OFFLINE="1")
    assert done.stdout == "tensor(2.)\n", done.stderr


def test_torchrun_starts(container: Started) -> None:
    done = container("jobs").run("torchrun", "--help")
    assert done.stdout.startswith("usage: torchrun"), done.stderr


def test_minio_says_what_it_is(container: Started) -> None:
    done = container("minio").run("minio", "--version")
    assert "minio version" in done.stdout, done.stderr
