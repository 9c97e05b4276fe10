"""`refrain doctor`: what it finds, and that it tells no secrets."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version

import pytest


def report(run: subprocess.CompletedProcess[str]) -> dict[str, dict]:
    return {finding["name"]: finding for finding in json.loads(run.stdout)}


def test_a_machine_that_can_run_the_data_stages_is_told_so(refrain):
    run = refrain("doctor")
    assert (run.returncode, run.stderr) == (0, "")
    assert f"ok       numpy                    {version('numpy')}" in run.stdout
    assert "\x1b" not in run.stdout


def test_json_says_the_same_for_programs(refrain):
    found = report(refrain("doctor", "--json"))
    assert found["Python"]["value"].startswith(".".join(map(str, sys.version_info[:3])))
    assert found["pyarrow"] == {
        "name": "pyarrow",
        "mark": "ok",
        "value": version("pyarrow"),
        "hint": "",
        "needed": True,
    }
    assert {
        "CPUs",
        "memory",
        "disk here",
        "extra train",
        "extra controller",
        "extra demo",
        "accelerator",
    } <= found.keys()


def test_a_core_package_that_is_not_there_fails_with_what_to_install():
    program = """
import sys
from importlib import metadata
version = metadata.version
def without_numpy(name):
    if name == "numpy":
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = without_numpy
from jobs.cli import main
main(["doctor"])
"""
    run = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert run.returncode == 78
    assert run.stderr == "refrain: error: the data stages need what is missing here: numpy\n"
    assert "pip install numpy" in run.stdout


def test_a_package_that_cannot_be_loaded_is_missing(refrain, tmp_path):
    (tmp_path / "orjson.py").write_text("raise ImportError('wrong processor')")
    run = refrain("doctor", "--json", env={"PYTHONPATH": str(tmp_path)})
    assert run.returncode == 78
    assert "cannot be loaded: wrong processor" in report(run)["orjson"]["value"]


def test_settings_are_named_and_never_shown(refrain):
    secrets = {"AWS_ACCESS_KEY_ID": "AKIAXYZZY", "REFRAIN_IMAP_PASSWORD": "plugh", "REFRAIN_S3_SSE": "plover"}
    run = refrain("doctor", env=secrets)
    for name, value in secrets.items():
        assert name in run.stdout
        assert value not in run.stdout
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together" in run.stdout


def test_a_store_is_opened_for_writing_and_proved(refrain, tmp_path):
    found = report(refrain("doctor", "--json", "--store", f"file://{tmp_path}/archive"))
    assert found["store"]["mark"] == "ok"
    assert found["store"]["value"] == f"file://{tmp_path}/archive: of 24 racing writers one won"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("url", "code"), [("ftp://host/x", 2), ("file:///proc/nowhere", 73)])
def test_a_store_that_will_not_do_fails_with_its_error(refrain, url, code):
    run = refrain("doctor", "--json", "--store", url)
    assert run.returncode == code
    assert report(run)["store"]["mark"] == "missing"
    assert run.stderr.startswith("refrain: error: ")


def test_tokenizers_in_the_hubs_cache_are_named(refrain, tmp_path):
    folder = tmp_path / "hub" / "models--ann--tiny" / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text("{}")
    assert "whitespace, ann/tiny" in refrain("doctor", env={"HF_HOME": str(tmp_path)}).stdout
