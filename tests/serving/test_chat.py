"""`refrain chat`, in its own process and with a server; the two say the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")

from serving.running import Inside, in_process
from serving.world import QUESTION

from jobs.cli.chat import command
from jobs.contracts.errors import AccessError, InputError, TransientError, UsageError
from jobs.serving.gate import Limits

if TYPE_CHECKING:
    from serving.world import World

SAID = f"/sources\n{QUESTION}\n/sources\n\n/dance\nand why?\n/new\n/sources\n/quit\nnot asked\n"


def chat(*arguments: object, said: str = SAID) -> str:
    done = CliRunner().invoke(command, [str(one) for one in arguments], input=said, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def door(world: World, tmp_path: Path) -> Iterator[Inside]:
    world.record("a")
    keys = tmp_path / "keys"
    keys.write_text("let-me\n")
    with in_process(world, api_keys=keys, limits=Limits(max_new_tokens=64)) as inside:
        yield inside


def test_here_and_with_a_server(world: World, door: Inside) -> None:
    here = chat("--store", world.url, "--max-new-tokens", 4, "--device", "cpu")
    lines = here.splitlines()
    assert lines[:2] == ["(no mail)", "aaaa"]
    assert lines[2:4] == ["  [1] 2024-01-01 09:00  ann@x: reshape", "      <who@x>"]
    assert lines[-2:] == ["aaaa", "(no mail)"]
    assert here.count("aaaa") == 2
    assert chat("--url", door.url, "--api-key", "let-me", "--max-new-tokens", 4) == here


def test_what_a_server_refuses_is_told(world: World, door: Inside) -> None:
    with pytest.raises(AccessError, match="no such API key"):
        chat("--url", door.url)
    with pytest.raises(UsageError, match="both a server"):
        chat("--url", door.url, "--store", world.url)
    with pytest.raises(TransientError, match="does not answer"):
        chat("--url", "http://127.0.0.1:1")


class _Page(BaseHTTPRequestHandler):
    """Some other server: its path says the status."""

    def do_POST(self) -> None:
        self.send_response(int(self.path.split("/")[1]))
        self.end_headers()
        self.wfile.write(b"<html>\na page</html>")

    def log_message(self, *_: object) -> None:
        pass


def test_what_is_no_server_of_this_api_is_told() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        with pytest.raises(InputError, match="does not speak OpenAI's API"):
            chat("--url", f"{url}/200")
        with pytest.raises(InputError, match="HTTP 404"):
            chat("--url", f"{url}/404")
        with pytest.raises(TransientError, match="HTTP 502"):
            chat("--url", f"{url}/502")
        server.shutdown()
