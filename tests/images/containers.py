"""An image's container under runc: its user, a read-only root, no network, no capability; only /tmp is writable."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Container:
    """An image's files, and where bundles are written."""

    image: str
    root: Path
    folder: Path
    config: dict[str, Any]
    """The image's own: Entrypoint, Env, User, Labels."""

    def run(self, *command: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command in it, to its end; this folder's `shared` is /shared there."""
        (self.folder / "shared").mkdir(exist_ok=True)
        (self.folder / "shared").chmod(0o777)
        (self.folder / "config.json").write_text(json.dumps(self._specification([*map(str, command)], environment)))
        name = f"refrain-test-{self.image}-{self.folder.name}"
        started = ["runc", "--root", str(self.folder / "runc"), "run", "--bundle", str(self.folder), name]
        return subprocess.run(started, capture_output=True, text=True, check=False, timeout=250)

    def _specification(self, command: list[str], environment: dict[str, str]) -> dict[str, Any]:
        user, group = map(int, self.config["User"].split(":"))
        variables = [*self.config["Env"], *(f"{name}={value}" for name, value in environment.items())]
        process = {"user": {"uid": user, "gid": group}, "cwd": "/tmp", "args": command, "env": variables}
        places = {"/proc": "proc", "/tmp": "tmpfs", "/dev": "tmpfs"}
        mounts = [{"destination": path, "type": kind, "source": kind} for path, kind in places.items()]
        mounts[1]["options"] = ["mode=1777"]
        shared = {"destination": "/shared", "type": "bind", "source": str(self.folder / "shared"), "options": ["bind"]}
        return {
            "ociVersion": "1.0.2",
            "process": {**process, "noNewPrivileges": True},
            "root": {"path": str(self.root), "readonly": True},
            "mounts": [*mounts, shared],
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
        }
