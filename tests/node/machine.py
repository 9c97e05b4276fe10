"""What the machine gives a node: its network, folders that end with it, its control groups."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ADDRESS = "192.0.2.1"  # of a network that is kept for documentation: it is nobody else's
PODS = "198.51.100.0/24"  # so is this
CGROUP = "refrain-node"
"""Below the root of every hierarchy: all pods are in it."""
TOOLS = ("unshare", "ip", "mount", "iptables", "conntrack", "runc")
CNI = Path("/usr/lib/cni")
PACKAGES = "containernetworking-plugins runc iptables conntrack iproute2"
_CGROUPS = Path("/sys/fs/cgroup")


def lacks() -> str:
    """Why this machine cannot be a node; empty where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux; or name another cluster by KUBECONFIG"
    missing = [name for name in TOOLS if not shutil.which(name)] + ([] if CNI.is_dir() else [str(CNI)])
    return f"no {', '.join(missing)} here; on Debian: apt-get install {PACKAGES}" if missing else ""


def state_folder() -> Path:
    """Where the node keeps its images from one time to the next, and all else while it runs."""
    cache = Path(os.environ.get("REFRAIN_CACHE") or Path.home() / ".cache" / "refrain")
    folder = cache / "node"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def only_one(state: Path) -> Iterator[None]:
    """Hold the folder: a second node of it waits for nothing, it is refused."""
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"node: one runs already in {state}; REFRAIN_CACHE names another place") from None
        yield


@contextlib.contextmanager
def prepared(state: Path) -> Iterator[None]:
    """Network, folders and control groups; what an earlier node left, as by SIGKILL, is taken away first."""
    shutil.rmtree(state / "run", ignore_errors=True)
    _remove_cgroups()
    (state / "run").mkdir()
    for folder in (Path("/run"), Path("/var/lib/cni")):  # of this mount namespace alone
        folder.mkdir(parents=True, exist_ok=True)
        _do("mount", "-t", "tmpfs", "tmpfs", str(folder))
    _make_network()
    _make_cgroups()
    try:
        yield
    finally:
        _unmount_below(state)
        shutil.rmtree(state / "run", ignore_errors=True)
        _remove_cgroups()


def end_everything() -> None:
    """Kill all processes of the namespace but this one, its first: pods' too."""
    assert os.getpid() == 1, "in a process namespace of its own alone"
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)


def _make_network() -> None:
    """One address that everything on the node listens at. Not every kernel has dummy devices: a pair of cables."""
    _do("ip", "link", "set", "lo", "up")
    _do("ip", "link", "add", "node0", "type", "veth", "peer", "name", "node0p")
    _do("ip", "address", "add", f"{ADDRESS}/24", "dev", "node0")
    for name in ("node0", "node0p"):
        _do("ip", "link", "set", name, "up")
    _do("ip", "route", "add", "default", "dev", "node0")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def hierarchies() -> list[Path]:
    """The roots of the control groups: one for each controller, or the unified one."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [folder for folder in sorted(_CGROUPS.iterdir()) if folder.is_dir() and not folder.is_symlink()]


def is_unified() -> bool:
    return hierarchies() == [_CGROUPS]


def _make_cgroups() -> None:
    for root in hierarchies():
        (root / CGROUP).mkdir(exist_ok=True)
        if root.name == "cpuset":  # in the first version these are not inherited
            for name in ("cpuset.cpus", "cpuset.mems"):
                (root / CGROUP / name).write_text((root / name).read_text())
        if root.name == "cpu":  # as much as kubelet gives its pods together; else they are worth one process
            (root / CGROUP / "cpu.shares").write_text(str(1024 * (os.cpu_count() or 1)))


def _remove_cgroups() -> None:
    deadline = time.monotonic() + 10  # the kernel takes a moment after the last process has ended
    for root in hierarchies():
        for folder, _, _ in os.walk(root / CGROUP, topdown=False):
            _remove_cgroup(Path(folder), deadline)


def _remove_cgroup(folder: Path, deadline: float) -> None:
    while folder.exists():
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _unmount_below(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((one for one in mounts if one.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False)


def _do(*command: str) -> None:
    subprocess.run(command, check=True)
