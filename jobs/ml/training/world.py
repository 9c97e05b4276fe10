"""The processes that train together, and what they say to each other. One alone is a world of one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import orjson
import torch
import torch.distributed as dist

from jobs.contracts.errors import ConfigError, StoppedError, TransientError

RANK = "RANK"
_TOLD_BY_LAUNCHER = (RANK, "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_TIMEOUT = timedelta(hours=2)
"""How long one process waits for the others, which may have a model to fetch."""
_PATIENCE_SECONDS = 30
"""How long the first process waits for the others to end."""


@dataclass(frozen=True, slots=True)
class World:
    """What one process is to the others that train with it. All of them must call each method, in the same order."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """The sum over all processes of each number."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        totals: list[float] = tensor.tolist()
        return totals

    def gather(self, text: str) -> list[str]:
        """A short text of each process."""
        if self.size == 1:
            return [text]
        mine = torch.zeros(256, dtype=torch.uint8)
        encoded = text.encode()
        mine[0] = len(encoded)
        mine[1 : 1 + len(encoded)] = torch.tensor(list(encoded), dtype=torch.uint8)
        gathered = [torch.zeros_like(mine) for _ in range(self.size)]
        dist.all_gather(gathered, mine)
        return [bytes(one[1 : 1 + int(one[0])].tolist()).decode() for one in gathered]

    def share_folder(self, folder: Path) -> Path:
        """Give all processes the files that the folder holds in the first one, in their folder of that name."""
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()] if self.is_first else []
        names = orjson.loads(self._share(orjson.dumps([path.relative_to(folder).as_posix() for path in files])))
        for number, name in enumerate(names):
            data = self._share(files[number].read_bytes() if self.is_first else b"")
            if not self.is_first:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
        return folder

    def _share(self, data: bytes) -> bytes:
        """The first process's bytes. No pickle goes over the wire."""
        if self.size == 1:
            return data
        length = torch.tensor([len(data)])
        dist.broadcast(length, 0)
        buffer = torch.empty(int(length), dtype=torch.uint8)
        if self.is_first:
            buffer = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
        if len(buffer):
            dist.broadcast(buffer, 0)
        received: bytes = buffer.numpy().tobytes()
        return received


@contextmanager
def joined(device_kind: str, processes: int = 1) -> Iterator[World]:
    """The world that a launcher's environment tells of (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), or one of ours.

    Where there is no launcher and `processes` is above 1, that many less one are started on this machine;
    they run `jobs.ml.training.follower`. What is left of them is ended with the block.
    Raises ConfigError for an environment that is half there, TransientError where a process was lost.
    """
    told = [name for name in _TOLD_BY_LAUNCHER if os.environ.get(name)]
    if len(told) == len(_TOLD_BY_LAUNCHER):
        with _connected(device_kind) as world:
            yield world
    elif RANK in told:
        missing = sorted(set(_TOLD_BY_LAUNCHER).difference(told))
        raise ConfigError(f"{RANK} is set, but {', '.join(missing)} is not", where="environment", hint="use torchrun")
    elif processes > 1:
        with _followers(device_kind, processes), _connected(device_kind) as world:
            yield world
    else:
        yield World()


@contextmanager
def _connected(device_kind: str) -> Iterator[World]:
    backend = "cpu:gloo,cuda:nccl" if device_kind == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=_TIMEOUT)
        yield World(dist.get_rank(), dist.get_world_size())
    except (dist.DistError, RuntimeError) as error:
        if not _is_about_peers(error):
            raise
        raise TransientError(
            f"another process of this training was lost: {str(error).splitlines()[0]:.200}",
            hint="its own message says why; the same command again goes on from the newest checkpoint",
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        _forget_state()


def _is_about_peers(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, dist.DistError) or any(
        word in text for word in ("Connection", "connection", "Gloo", "gloo", "NCCL", "Timed out", "Broken pipe")
    )


def _forget_state() -> None:
    """The library accelerate remembers the processes for as long as this one lives."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001 - as transformers does
    GradientState._reset_state()  # noqa: SLF001
    assert not PartialState._shared_state  # noqa: SLF001


@contextmanager
def _followers(device_kind: str, processes: int) -> Iterator[None]:
    """The other processes of this machine, and the environment in which they and this one find each other."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(processes)}
    address["LOCAL_WORLD_SIZE"] = str(processes)
    with ExitStack() as stack:
        children = []
        for rank in range(1, processes):
            environment = os.environ | address | {RANK: str(rank), "LOCAL_RANK": str(rank)}
            command = [sys.executable, "-m", "jobs.ml.training.follower", device_kind]
            child = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE)  # noqa: S603 - our own module
            stack.callback(_end, child)
            children.append(child)
        stack.enter_context(_environment(address | {RANK: "0", "LOCAL_RANK": "0"}))
        yield
        for rank, child in enumerate(children, 1):
            _wait_for(child, rank)


def _wait_for(child: subprocess.Popen[bytes], rank: int) -> None:
    """Let a process end behind the training. What the first one has saved stands, whatever becomes of this one."""
    try:
        code = child.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        code = child.wait()
    if code not in (0, StoppedError.exit_code):
        said = f"process {rank} did not end well (exit code {code}), but training had ended"
        sys.stderr.write(f"refrain: note: {said}\n")


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        try:
            child.wait(_PATIENCE_SECONDS / 10)  # after an error of all, or a stop: it ends by itself
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    if child.stdin:
        child.stdin.close()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
