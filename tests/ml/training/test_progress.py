from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from typing import Any

import pytest

from jobs.contracts.errors import ConfigError
from jobs.ml.training import progress as module
from jobs.ml.training.progress import Progress, ProgressBar, as_metrics, served


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def done(progress: Progress, step: int, tokens: int = 90, padded: int = 100) -> None:
    progress.step_done(step, epoch=step / 4, loss=2.5, learning_rate=1e-3, tokens=tokens, padded=padded)


def test_before_anything_is_known() -> None:
    said = Progress(8).as_json()
    assert said == {
        "percent": 0.0,
        "etaSeconds": None,
        "step": 0,
        "numSteps": 8,
        "epoch": 0.0,
        "loss": None,
        "evalLoss": None,
        "learningRate": None,
        "tokensPerSecond": None,
        "paddingShare": None,
    }
    assert "loss" not in as_metrics(said)


def test_speed_is_that_of_this_run_s_own_steps(clock: list[float]) -> None:
    """Gone on from step 10 of 20; two steps of 5 seconds: 8 are left, of 5 seconds each."""
    progress = Progress(20)
    clock[0] += 1000  # the model was loaded
    progress.begin(10, 2.5)
    for step in (11, 12):
        clock[0] += 5
        done(progress, step)
    said = progress.as_json()
    assert (said["step"], said["percent"], said["epoch"]) == (12, 60.0, 3.0)
    assert said["etaSeconds"] == 40.0
    assert said["tokensPerSecond"] == 18.0
    assert said["paddingShare"] == 0.1


def test_speed_forgets_what_is_long_past(clock: list[float]) -> None:
    progress = Progress(1000)
    progress.begin(0, 0.0)
    for step in range(1, 201):
        clock[0] += 10 if step <= 100 else 1
        done(progress, step)
    assert progress.as_json()["etaSeconds"] == 800.0
    assert progress.as_json()["tokensPerSecond"] == 90.0


def test_over_http() -> None:
    progress = Progress(8)
    progress.begin(0, 0.0)
    done(progress, 2)
    with served(progress, 0) as port:
        assert json.loads(get(port, "/progress")) == progress.as_json()
        lines = get(port, "/metrics").decode().splitlines()
        assert get(port, "/healthz") == b"ok\n"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(port, "/etc/passwd")
    names = {line.split()[0] for line in lines if not line.startswith("#")}
    assert {"refrain_train_step", "refrain_train_loss_nats", "refrain_train_padding_share"} <= names
    assert all(f"# TYPE {name} gauge" in lines for name in names)
    assert [float(line.split()[1]) for line in lines if line.startswith("refrain_train_step ")] == [2]
    with pytest.raises(OSError, match="refused"):
        get(port, "/healthz")


def get(port: Any, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        data: bytes = answer.read()
        return data


def test_a_port_that_is_taken() -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on port {port}"), served(Progress(1), port):
            pass


def test_the_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = Progress(4)
    progress.begin(0, 0.0)
    with ProgressBar(progress) as shown:
        shown._bar.mininterval, shown._bar.dynamic_ncols, shown._bar.ncols = 0, None, 200
        for step in (1, 2, 3):
            done(progress, step)
        progress.scored(1, 3)
        progress.eval_loss = 2.25
        done(progress, 4)
    told = capsys.readouterr().err
    for part in (
        "train",
        "4/4",
        "loss=2.5",
        "lr=0.001",
        "val=2.25",
        "tokens/s=",
        "padding=10%",
        "train, val 1/3:  75%",
    ):
        assert part in told


def test_no_bar_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(2)
    with ProgressBar(progress):
        done(progress, 1)
    assert capsys.readouterr().err == ""
