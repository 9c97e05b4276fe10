"""Runs a command on a Kubernetes node of its own; node, pods and all are gone when it ends.

    PYTHONPATH=tests python -m node [--load ARCHIVE]… run COMMAND…

COMMAND finds the administrator's kubeconfig in KUBECONFIG, and the node's binaries on PATH. It runs as root, on Linux,
in network, mount and process namespaces of its own: pods' addresses and Services answer it, the world outside does not.
Another shell joins by `nsenter`, as is said at the start.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from node import machine
from node.node import Node

_INSIDE = "REFRAIN_NODE_INSIDE"


def main() -> int:
    """Run it; what the command returned."""
    options = _options()
    problem = machine.lacks()
    if problem:
        print(f"node: {problem}", file=sys.stderr)
        return 69
    if _INSIDE not in os.environ:
        os.environ[_INSIDE] = str(os.getpid())
        _in_own_namespaces()
    return _run(options.load, options.command)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m node", description="A command on a Kubernetes node of its own.")
    parser.add_argument(
        "--load", type=Path, action="append", default=[], metavar="ARCHIVE", help="an image, as an OCI archive"
    )
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="run a command there")
    run.add_argument("command", nargs=argparse.REMAINDER)
    return parser.parse_args()


def _in_own_namespaces() -> None:
    """This program again, as the first process of a process namespace: all that it starts ends with it."""
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    os.execvp("unshare", [*unshare, sys.executable, "-m", "node", *sys.argv[1:]])


def _run(archives: list[Path], command: list[str]) -> int:
    state = machine.state_folder()
    with machine.only_one(state), machine.prepared(state):
        node = Node(state / "run", images=state / "images")
        began = time.monotonic()
        try:
            node.start()
            _say(f"ready after {time.monotonic() - began:.1f} s")
            _say(f"join it by: nsenter --all --target $(pgrep --parent {os.environ[_INSIDE]})")
            for archive in archives:
                began = time.monotonic()
                _say(f"{node.runtime.load(archive)} ({time.monotonic() - began:.1f} s)")
            return node.run(command)
        finally:
            node.stop()


def _say(text: str) -> None:
    print(f"node: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
