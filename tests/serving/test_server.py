"""`refrain serve` as a process: how it starts, what it says of itself, how it stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from components import require
from serving.running import SECONDS, process
from serving.world import ASKED, World


@pytest.mark.slow
def test_the_record_is_served_and_told_to_stop_nothing_is_dropped(world: World) -> None:
    """Not ready at once; new requests are taken while it drains; streams under way end; exit code 0."""
    world.record("b")
    with process("--store", world.url, "--drain-seconds", 2, "--log-format", "json") as server:
        assert server.request("GET", "/livez")[0] == 200
        server.wait_for('"ready"')
        assert server.request("GET", "/readyz")[1]["adapter"] == world.digests["b"]
        texts: list[str] = []
        begun = threading.Semaphore(0)

        def read() -> None:
            chunks = server.client().chat.completions.create(
                model="refrain", messages=ASKED, max_tokens=900, stream=True
            )
            text = ""
            for number, chunk in enumerate(chunks):
                if number == 1:
                    begun.release()
                text += chunk.choices[0].delta.content or ""
            texts.append(text)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert all(begun.acquire(timeout=SECONDS) for _ in threads)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("told to stop")
        assert server.request("GET", "/readyz") == (503, {"status": "stopping"})
        late = server.client().chat.completions.create(model="refrain", messages=ASKED, max_tokens=2)
        assert late.choices[0].message.content == "bb"
        for thread in threads:
            thread.join()
        assert texts == ["b" * 900] * 4
        assert server.process.wait(SECONDS) == 0


@pytest.mark.slow
def test_as_process_1_and_cut_off_by_the_grace(world: World) -> None:
    """In a PID namespace of its own, as in a container; an answer that takes longer than the grace is cut off."""
    isolated = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")
    possible = subprocess.run([*isolated, "true"], check=False, capture_output=True)
    require(possible.returncode == 0, "no namespaces: unshare --pid is not allowed here")
    with process("--store", world.url, "--grace-seconds", 1, "--served", world.served("a"), before=isolated) as server:
        server.wait_for("refrain: ready")
        stream = server.client().chat.completions.create(model="refrain", messages=ASKED, max_tokens=2048, stream=True)
        next(iter(stream))
        inside = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        os.kill(int(inside[0]), signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0
    assert [line for line in server.told if "POST /v1/chat/completions 503" in line]


def test_stopped_while_it_loads(world: World) -> None:
    with process("--store", world.url) as server:
        assert server.request("GET", "/readyz") == (503, {"status": "loading"})
        status, body = server.request("POST", "/v1/chat/completions", {"messages": ASKED})
        assert (status, body["error"]["code"]) == (503, "loading")
        assert server.stopped(signal.SIGINT) == 0


@pytest.mark.parametrize(
    ("arguments", "adapter", "code", "told"),
    [
        ([], "{key}@" + "0" * 64, 70, "has digest"),
        ([], "cycles/no/step_1@" + "0" * 64, 66, "the adapter is not there"),
        ([], "nonsense", 2, "not an adapter"),
        (["--base", "/no/such"], "", 66, "no such folder"),
        (["--api-keys-file", "/no/such"], "", 66, "/no/such"),
        (["--base-only", "--adapter", "x"], "", 2, "leave one out"),
        (["--host", "203.0.113.1"], "", 78, "cannot listen"),
        (["--question", "who " * 9000], "", 65, "--question: the question has"),
    ],
)
def test_what_keeps_it_from_starting(world: World, arguments: list[str], adapter: str, code: int, told: str) -> None:
    command = [str(Path(sys.executable).with_name("refrain")), "serve", "--port", "0", "--store", world.url, *arguments]
    environment = os.environ | {"REFRAIN_ADAPTER": adapter.format(key=world.key("a"))}
    run = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=SECONDS)
    assert (run.returncode, told in run.stderr, "Traceback" in run.stderr) == (code, True, False), run.stderr
