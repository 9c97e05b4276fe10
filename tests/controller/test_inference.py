"""What the controller sends to inference pods, and what it makes of their answers."""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from inference_pods import served

from controller.inference import ask, swap
from controller.settings import InferenceSettings

POD = {"metadata": {"name": "s1"}, "status": {"podIP": "127.0.0.1"}}


def settings(port: int, token_file: Path) -> InferenceSettings:
    return InferenceSettings(deployment="s", archive="a", port=port, token_file=token_file)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return tmp_path / "token"


def test_of_several_tokens_the_first_is_sent(token_file: Path) -> None:
    token_file.write_text("# rotated in November\nnew-one\nold-one\n")
    with served("127.0.0.1", 18_411, lambda _path, _body: {}, token="new-one"):
        assert swap(POD, "adapters/x@" + "a" * 64, settings(18_411, token_file)).problem == ""


@pytest.mark.parametrize("text", ["secret\x07word", "s\u00e9cret", "", "# nothing"])
def test_a_token_that_cannot_be_sent_is_not_told_to_everybody(token_file: Path, text: str) -> None:
    token_file.write_text(text)
    said = settings(18_412, token_file)
    told = (swap(POD, "x@y", said).problem, ask(POD, said, 60).problem)
    for problem in told:
        assert "holds no token" in problem
        assert "cret" not in problem


@pytest.mark.parametrize(("status", "is_final"), [(404, True), (409, True), (422, True), (401, False), (503, False)])
def test_who_is_busy_is_told_again_and_who_does_not_know_it_is_not(
    token_file: Path, status: int, *, is_final: bool
) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(status)

    token_file.write_text("token")
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        said = swap(POD, "x@y", settings(server.server_port, token_file))
        thread.join()
    assert said.problem.startswith(f"HTTP {status}")
    assert said.is_final == is_final


def test_who_is_away_is_told_again(token_file: Path) -> None:
    token_file.write_text("token")
    away = swap(POD, "x@y", settings(18_413, token_file))
    assert away.problem
    assert not away.is_final


def test_an_answer_is_waited_for_as_long_as_is_said(token_file: Path) -> None:
    """A pod that takes connections, and never answers."""
    token_file.write_text("token")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        began = time.monotonic()
        said = ask(POD, settings(listener.getsockname()[1], token_file), 0.5)
    assert "timed out" in said.problem
    assert time.monotonic() - began < 10
