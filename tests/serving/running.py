"""Servers that tests talk to: in this process, or real `refrain serve` processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import urllib3
import uvicorn

from jobs.serving.app import build
from jobs.serving.assistant import Assistant
from jobs.serving.gate import Keys, Limits, SecretFile
from jobs.serving.service import Service
from jobs.serving.wanted import Wanted

if TYPE_CHECKING:
    from serving.world import World

SECONDS = 120
_pool = urllib3.PoolManager(maxsize=64)


@dataclass
class Door:
    """A server's address, and ways to knock."""

    url: str
    key: str = "none"

    def client(self, key: str | None = None) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key or self.key, max_retries=0, timeout=SECONDS)

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON, or text."""
        said = _pool.request(
            method, self.url + path, json=body, headers=headers or None, retries=False, timeout=SECONDS
        )
        is_json = "json" in said.headers.get("Content-Type", "")
        return said.status, said.json() if is_json else said.data.decode()

    def swap(self, adapter: str | None, digest: str, token: str) -> tuple[int, Any]:
        body = {"adapter": adapter, "sha256": digest}
        return self.request("POST", "/v1/adapter", body, Authorization=f"Bearer {token}")

    def metric(self, line: str) -> float:
        """The value of one line of /metrics."""
        text = self.request("GET", "/metrics")[1]
        found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0


@dataclass
class Inside(Door):
    """A server in a thread of this process."""

    service: Service = field(kw_only=True)


@contextlib.contextmanager
def in_process(
    world: World,
    *,
    limits: Limits | None = None,
    api_keys: Path | None = None,
    token: Path | None = None,
    **wanted: Any,
) -> Iterator[Inside]:
    """A server that has loaded what there is."""
    limits = limits or Limits()
    keys = Keys(SecretFile(api_keys) if api_keys else None, SecretFile(token) if token else None)
    with Assistant(Wanted(store_url=world.url, device="cpu", **wanted), max_active=limits.max_active) as assistant:
        service = Service(assistant, limits, keys)
        service.open()
        with listening(service) as inside:
            yield inside


@contextlib.contextmanager
def listening(service: Service) -> Iterator[Inside]:
    """A server, whatever there is of its service."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(build(service), log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Inside(f"http://127.0.0.1:{listener.getsockname()[1]}", service=service)
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


@dataclass
class Process(Door):
    """A server in a process of its own."""

    process: subprocess.Popen[str] = field(kw_only=True)
    told: list[str] = field(kw_only=True)
    """Its standard error, by lines."""

    def wait_for(self, text: str) -> str:
        """The first line that has this text."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if line := next((line for line in list(self.told) if text in line), None):
                return line
            assert self.process.poll() is None, "".join(self.told)
            time.sleep(0.05)
        raise AssertionError(f"no {text!r} in {self.told}")

    def stopped(self, number: int = signal.SIGTERM) -> int:
        """Its exit code, having been told to stop."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


@contextlib.contextmanager
def process(*arguments: object, env: dict[str, str] | None = None, before: tuple[str, ...] = ()) -> Iterator[Process]:
    """`refrain serve` on some port, not ready yet."""
    command = [*before, str(Path(sys.executable).with_name("refrain")), "serve", "--port", "0", *map(str, arguments)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("REFRAIN_")}
    child = subprocess.Popen(command, env=clean | (env or {}), stderr=subprocess.PIPE, text=True)
    server = Process("", process=child, told=[])
    reader = threading.Thread(target=lambda: server.told.extend(child.stderr or ()))
    reader.start()
    try:
        server.url = re.findall(r"http://[\w.:\[\]]+", server.wait_for("listening on "))[0]
        yield server
    finally:
        child.kill()
        child.wait()
        reader.join()
