"""The `refrain` command as a whole, run as users run it."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import pytest

from jobs.cli import COMMANDS
from jobs.contracts.errors import StoppedError, permanent_exit_codes

HEAVY = {"numpy", "pyarrow", "boto3", "botocore", "pydantic", "tokenizers", "torch"}


def cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_is_quick():
    """Processor time, least of three: what other programs on the machine do does not count."""
    command = [sys.executable, "-m", "jobs.cli", "--help"]
    assert min(cpu_seconds(command) for _ in range(3)) < 0.5


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_of_every_command_reads_well_and_loads_nothing_heavy(name):
    program = f"""
import sys
from jobs.cli import cli
try:
    cli.main(args={[*([name] if name else []), "--help"]!r}, prog_name="refrain")
finally:
    print(sorted({HEAVY!r} & sys.modules.keys()), file=sys.stderr)
"""
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert run.stdout.startswith(f"Usage: refrain {name}".rstrip())
    assert run.stderr == "[]\n"
    assert "\\b" not in run.stdout, 'the docstring needs a real backspace, not r"""'
    assert max(len(line) for line in run.stdout.splitlines()) <= 100


def test_help_lists_every_command_with_its_line(refrain):
    shown = refrain("--help").stdout
    for name, summary in COMMANDS.items():
        assert f"  {name} " in shown
        assert summary in shown


def test_version(refrain):
    assert refrain("--version").stdout == f"refrain, version {version('refrain')}\n"


def test_an_unknown_command_is_refused_with_the_usage(refrain):
    run = refrain("pares")
    assert (run.returncode, run.stdout) == (2, "")
    assert "No such command 'pares'" in run.stderr
    assert "parse" in run.stderr.partition("pares")[2]


def test_an_unknown_flag_is_refused(refrain):
    run = refrain("parse", "--blue", "a.mbox")
    assert (run.returncode, run.stdout) == (2, "")
    assert "No such option" in run.stderr


def test_an_error_is_one_message_on_standard_error_with_its_exit_code(refrain, tmp_path):
    run = refrain("parse", tmp_path / "nowhere.mbox", "-o", tmp_path / "messages.jsonl")
    assert (run.returncode, run.stdout) == (66, "")
    assert run.stderr.startswith(f"refrain: error: {tmp_path}/nowhere.mbox: ")
    assert "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == []
    assert run.returncode in permanent_exit_codes()


def test_a_traceback_is_there_for_those_who_ask(refrain, tmp_path):
    run = refrain("parse", tmp_path / "nowhere.mbox", env={"REFRAIN_TRACEBACK": "1"})
    assert run.returncode == 1
    assert "MissingInputError" in run.stderr


def test_a_reader_that_goes_away_ends_it_quietly(refrain):
    command = f"{sys.executable} -m jobs.cli completion bash | head -n 1"
    run = subprocess.run(["bash", "-o", "pipefail", "-c", command], check=False, capture_output=True, text=True)
    assert run.stderr == ""
    assert run.stdout.startswith("_refrain_completion")


def test_a_reader_of_records_that_goes_away(tmp_path):
    """The exit code is that of a program which SIGPIPE ends."""
    mails = (f"From ann@a.example Mon Jan  6 10:00:00 2025\nMessage-ID: <{i}@a>\n\n{'x' * 9999}\n\n" for i in range(99))
    (tmp_path / "in.mbox").write_text("".join(mails))
    command = f"{sys.executable} -m jobs.cli parse {tmp_path}/in.mbox -o - --workers 1 | head -c 10"
    run = subprocess.run(["bash", "-o", "pipefail", "-c", command], check=False, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (141, "")
    assert len(run.stdout) == 10


def test_a_dash_is_standard_input_and_output(refrain, tmp_path):
    mail = "From ann@a.example Mon Jan  6 10:00:00 2025\nMessage-ID: <1@a.example>\nFrom: ann@a.example\n\nHello.\n\n"
    run = refrain("parse", "-", "-o", "-", "--rejects", tmp_path / "rejects.jsonl", input=mail)
    assert run.returncode == 0, run.stderr
    assert [json.loads(line)["message_id"] for line in run.stdout.splitlines()] == ["1@a.example"]


def test_told_to_stop_it_leaves_nothing_behind(tmp_path):
    command = [sys.executable, "-m", "jobs.cli", "parse", "-", "-o", tmp_path / "messages.jsonl"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.iterdir()):  # it has begun to write
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        assert process.wait(timeout=30) == StoppedError.exit_code
        assert "told to stop" in process.stderr.read()
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_is_one_message_and_leaves_nothing_behind(tmp_path):
    command = [sys.executable, "-m", "jobs.cli", "parse", "-", "-o", tmp_path / "messages.jsonl"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.iterdir()):  # it has begun to write
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert process.stderr.read().strip().startswith("refrain: stopped: what has finished is kept, and the same")
    assert list(tmp_path.iterdir()) == []


def test_told_to_stop_within_a_library_that_catches_every_exception():
    program = """
import os, signal, sys, time
import click
import jobs.cli.doctor
@click.command()
def command():
    for attempt in range(3):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except Exception:
            print("once more")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            print("tidied")
jobs.cli.doctor.command = command
jobs.cli.main(["doctor"])
"""
    run = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (StoppedError.exit_code, "tidied\n")
    assert run.stderr.startswith("refrain: error: told to stop\n")


@pytest.mark.parametrize("arguments", [["doctor"], ["--help"], ["parse", "-", "-o", "-", "--rejects", "/dev/null"]])
def test_a_full_disk_under_standard_output_is_one_message(arguments):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        run = subprocess.run(
            [sys.executable, "-m", "jobs.cli", *arguments],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            input="From ann@a.example Mon Jan  6 10:00:00 2025\nMessage-ID: <1@a.example>\n\nHello.\n",
            text=True,
        )
    assert run.returncode == 73
    assert "refrain: error: standard output: cannot be written: No space left on device" in run.stderr
    assert "Traceback" not in run.stderr
    assert "ignored" not in run.stderr
