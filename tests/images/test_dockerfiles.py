"""What the Dockerfiles say: who runs, what stands where, and what gets into an image."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jobs import __version__

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ("controller", "jobs", "minio")
OURS = ("controller", "jobs")


def instructions(image: str) -> list[tuple[str, str]]:
    """Of a Dockerfile, in order: what and with what; continued lines joined."""
    text = (ROOT / "images" / image / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(what, rest.strip()) for what, rest in (line.split(" ", 1) for line in lines)]


def last_stage(image: str) -> list[tuple[str, str]]:
    rows = instructions(image)
    return rows[max(at for at, (what, _) in enumerate(rows) if what == "FROM") :]


def arguments(image: str) -> dict[str, str]:
    pairs = (rest.partition("=") for what, rest in instructions(image) if what == "ARG")
    return {name: default.strip('"') for name, _, default in pairs}


@pytest.mark.parametrize("image", IMAGES)
def test_both_bases_are_arguments_with_public_defaults(image: str) -> None:
    sources = [rest for what, rest in instructions(image) if what == "FROM"]
    assert "${BUILDER} AS build" in sources
    assert {source.split(" AS ")[0] for source in sources[:-1]} <= {"${BUILDER}", "build"}
    assert sources[-1] == "${BASE}"
    assert arguments(image)["BUILDER"].startswith("docker.io/library/")
    assert re.fullmatch(r"gcr\.io/distroless/[a-z0-9-]+:nonroot", arguments(image)["BASE"])


@pytest.mark.parametrize("image", IMAGES)
def test_the_last_stage_runs_nothing_and_nobody_is_root(image: str) -> None:
    stage = last_stage(image)
    assert [rest for what, rest in stage if what == "USER"] == ["65532:65532"]
    assert not [rest for what, rest in stage if what in ("RUN", "ADD", "VOLUME", "HEALTHCHECK")]
    assert all(rest.startswith("--from=") for what, rest in stage if what == "COPY")


@pytest.mark.parametrize("image", IMAGES)
def test_labels(image: str) -> None:
    (labels,) = (dict(re.findall(r'([\w.]+)="([^"]*)"', rest)) for what, rest in last_stage(image) if what == "LABEL")
    names = {f"org.opencontainers.image.{name}" for name in ("title", "version", "revision", "source", "licenses")}
    assert names <= labels.keys()
    assert labels["org.opencontainers.image.title"] == f"refrain-{image}"
    licence = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]
    assert labels["org.opencontainers.image.licenses"] == ("AGPL-3.0-or-later" if image == "minio" else licence)


@pytest.mark.parametrize("image", IMAGES)
def test_nothing_secret_is_an_argument_or_in_the_environment(image: str) -> None:
    named = [rest for what, rest in instructions(image) if what in ("ARG", "ENV")]
    assert not [rest for rest in named if re.search(r"(?i)secret|token|password|credential|access_key", rest)]


@pytest.mark.parametrize("image", IMAGES)
def test_what_needs_the_network_takes_the_certificates_from_a_secret(image: str) -> None:
    for what, rest in instructions(image):
        if what == "RUN" and re.search(r"install\.sh (environment|packages|code)|go install", rest):
            assert "--mount=type=secret,id=ca" in rest


@pytest.mark.parametrize("image", OURS)
def test_dependencies_are_pinned_and_stand_in_layers_before_the_code(image: str) -> None:
    rows = instructions(image)
    packages = [rest for what, rest in rows if what == "RUN" and "install.sh packages" in rest]
    assert packages
    assert 'uv pip install --quiet --constraint requirements.txt "$@"' in (ROOT / "images" / "install.sh").read_text()
    copied = [rest.split()[0] for what, rest in last_stage(image) if what == "COPY"]
    assert copied[-1] == "--from=code"
    assert set(copied[:-1]) == {"--from=build"}
    code_at = rows.index(("COPY", "jobs jobs"))
    assert all(rows.index(("RUN", rest)) < code_at for rest in packages)


@pytest.mark.parametrize("image", OURS)
def test_dependencies_are_made_anew_for_a_change_of_them_alone(image: str, tmp_path: Path) -> None:
    (command,) = (rest for what, rest in instructions(image) if rest.startswith("sed "))
    whole = (ROOT / "pyproject.toml").read_text()
    (tmp_path / "all.toml").write_text(whole)
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    wanted = tomllib.loads((tmp_path / "pyproject.toml").read_text())
    project = tomllib.loads(whole)["project"]
    assert wanted.keys() == {"project"}
    assert wanted["project"]["version"] == "0"
    for part in ("dependencies", "optional-dependencies"):
        assert wanted["project"][part] == project[part]


@pytest.mark.parametrize("image", OURS)
def test_the_extras_of_an_image_are_those_of_the_project(image: str) -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = " ".join(rest for what, rest in instructions(image) if what == "RUN")
    extras = re.findall(r"--extra (\w+)", text) or arguments(image)["EXTRAS"].split()
    assert extras == {"controller": ["controller"], "jobs": ["train", "serve"]}[image]
    assert set(extras) <= set(known)


def test_minio_is_the_one_that_the_tests_know() -> None:
    versions = (ROOT / "tests" / "servers" / "versions.env").read_text()
    assert f"MINIO_VERSION={arguments('minio')['MINIO_VERSION']}\n" in versions


def test_the_context_is_what_an_image_is_made_from() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    taken = {line[1:] for line in ignored if line.startswith("!")}
    assert taken == {"LICENSE", "README.md", "controller", "images", "jobs", "pyproject.toml", "requirements.txt"}


def printed(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "images" / "build.py", *arguments],
        env={"PATH": environment.pop("PATH", "/usr/bin:/bin"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    """A folder with docker, whose daemon does not answer, podman and buildah, which do."""
    for name, code in (("docker", 1), ("podman", 0), ("buildah", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_the_first_engine_that_works_builds(engines: Path) -> None:
    done = printed(
        "--dry-run", "--push", "--registry", "registry.example/team", "--tag", "7", PATH=f"{engines}:/usr/bin"
    )
    commands = [line.removeprefix("+ ").split() for line in done.stdout.splitlines()]
    assert [command[:2] for command in commands] == [["podman", "build"], ["podman", "push"]] * 3
    names = [command[-1] for command in commands if command[1] == "push"]
    assert names == [f"registry.example/team/refrain-{image}:7" for image in IMAGES]


def test_make_images_is_that_script(engines: Path) -> None:
    """As the quick start says it: a folder of that name is there, which make takes for what is to be made."""
    command = ["make", "--silent", "images", "IMAGES=minio --dry-run --registry registry.example/team --push"]
    environment = os.environ | {"PATH": f"{engines}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"+ podman push registry.example/team/refrain-minio:{__version__}"


def test_bases_proxies_and_certificates_get_to_the_build(engines: Path, tmp_path: Path) -> None:
    done = printed(
        *("controller", "--dry-run", "--engine", "buildah", "--base", "mirror.example/python", "--ca", str(tmp_path)),
        PATH=f"{engines}:/usr/bin",
        https_proxy="http://proxy.example:3128",
    )
    assert "--build-arg BASE=mirror.example/python" in done.stdout
    assert "--build-arg HTTPS_PROXY=http://proxy.example:3128" in done.stdout
    assert f"--secret id=ca,src={tmp_path}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["contoller"], "no such image: contoller; there are controller, jobs, minio"),
        ([], "none of docker, podman, buildah"),
    ],
)
def test_what_cannot_be_built_is_said(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = printed(*arguments, PATH=str(tmp_path))
    assert done.returncode != 0
    assert words in done.stderr
