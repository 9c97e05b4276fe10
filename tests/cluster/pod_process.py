"""A pod's command as a local process, with its volumes in a folder of the pod and its paths rewritten to it."""

from __future__ import annotations

import base64
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import programs
from cluster.pod_status import MESSAGE_BYTES, Exit, cut

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.api import Object
    from cluster.control_plane import ControlPlane

_BIN = Path(sys.executable).parent
_LOG_BYTES = 2048
"""Of the log, where it is the termination message."""


class CannotStartError(Exception):
    """What keeps a container from starting: a reason as the kubelet gives it, and a message."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class PodProcess:
    """The one container of a pod."""

    def __init__(self, control_plane: ControlPlane, pod: Object, folder: Path, env: Mapping[str, str]) -> None:
        self._control_plane = control_plane
        self._api = control_plane.user("kubelet")
        self._pod, self._folder, self._extra = pod, folder, env
        self._container: Object = pod["spec"]["containers"][0]
        self._namespace: str = pod["metadata"]["namespace"]
        self._process: subprocess.Popen[bytes] | None = None
        self._failed: Exit | None = None
        self._stopping = False
        self.log = folder / "log"
        self._termination_log = folder / "termination-log"

    # ---- its life

    def start(self, ip: str) -> None:
        """Begin; CannotStartError where something that it names is missing."""
        paths = self._mounts()
        path = self._container.get("terminationMessagePath", "/dev/termination-log")
        paths[path] = self._termination_log
        self._termination_log.write_bytes(b"")
        env = self._environment(ip, paths)
        words = [*self._container.get("command", []), *self._container.get("args", [])]
        if not self._container.get("command"):
            words.insert(0, "refrain")  # the images' entry point
        command = [_rewritten(_expanded(word, env), paths) for word in words]
        found = shutil.which(command[0], path=env["PATH"])
        if found is None:
            message = f'exec: "{command[0]}": executable file not found in $PATH'
            self._failed = Exit(128, message, "StartError")
            return
        folder = self._folder / "work"
        folder.mkdir(exist_ok=True)
        with self.log.open("ab") as output:
            self._process = programs.start([found, *command[1:]], output, as_first=True, env=env, cwd=folder)

    def wait(self, seconds: float | None) -> Exit | None:
        """How it ended, or None where it has not within that time."""
        if self._process is None:
            return self._failed
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        programs.end_group(self._process)
        code = code if code >= 0 else 128 - code
        self._process = None
        self._failed = Exit(code, self._message(code))
        return self._failed

    @property
    def pid(self) -> int:
        assert self._process is not None, "it does not run"
        return self._process.pid

    def stop(self, grace_seconds: float) -> None:
        """SIGTERM at once, SIGKILL after the grace."""
        process = self._process
        if process is None:
            return
        if not self._stopping:
            self._stopping = True
            programs.signal_group(process, signal.SIGTERM, alone=True)
        timer = threading.Timer(grace_seconds, programs.signal_group, (process, signal.SIGKILL))
        timer.daemon = True
        timer.start()

    def kill(self) -> None:
        if process := self._process:
            programs.signal_group(process, signal.SIGKILL)

    def _message(self, code: int) -> str:
        message = _tail(self._termination_log, MESSAGE_BYTES)
        falls_back = self._container.get("terminationMessagePolicy") == "FallbackToLogsOnError"
        return cut(message) if message or not (falls_back and code) else cut(_tail(self.log, _LOG_BYTES))

    # ---- its surroundings

    def _environment(self, ip: str, paths: Mapping[str, Path]) -> dict[str, str]:
        env = {"PATH": f"{_BIN}:/usr/local/bin:/usr/bin:/bin", "HOME": str(self._folder), "OMP_NUM_THREADS": "1"}
        env["HOSTNAME"] = self._pod["metadata"]["name"]
        told: dict[str, str] = {}
        for source in self._container.get("envFrom", []):
            kind = "secret" if "secretRef" in source else "configMap"
            data = self._data(kind, source[f"{kind}Ref"]["name"], optional=source[f"{kind}Ref"].get("optional"))
            told |= {source.get("prefix", "") + key: value.decode() for key, value in data.items()}
        for item in self._container.get("env", []):
            value = self._value(item, ip)
            if value is not None:
                told[item["name"]] = _expanded(value, told)
        env |= {name: _rewritten(value, paths) for name, value in told.items()}
        if (token := next(self._folder.glob("volumes/*/token"), None)) and (token.parent / "ca.crt").exists():
            env["KUBECONFIG"] = str(self._kubeconfig(token))
        return {**env, **self._extra}

    def _kubeconfig(self, token: Path) -> Path:
        # In a container, clients find the token by its absolute path.
        from cluster.control_plane import write_kubeconfig

        server, ca = self._control_plane.server, token.parent / "ca.crt"
        return write_kubeconfig(self._folder / "kubeconfig", server, token.read_text(), ca, self._namespace)

    def _value(self, item: Object, ip: str) -> str | None:
        source = item.get("valueFrom")
        if source is None:
            return item.get("value", "")
        if "fieldRef" in source:
            return self._field(source["fieldRef"]["fieldPath"], ip)
        if "resourceFieldRef" in source:
            limits = self._container.get("resources", {}).get("limits", {})
            return str(limits.get(source["resourceFieldRef"]["resource"].removeprefix("limits."), ""))
        kind = "secret" if "secretKeyRef" in source else "configMap"
        ref = source[f"{kind}KeyRef"]
        data = self._data(kind, ref["name"], optional=ref.get("optional"))
        if ref["key"] not in data and not ref.get("optional"):
            where = f"{kind.lower()} {self._namespace}/{ref['name']}"
            raise CannotStartError("CreateContainerConfigError", f"couldn't find key {ref['key']} in {where}")
        return data[ref["key"]].decode() if ref["key"] in data else None

    def _field(self, path: str, ip: str = "") -> str:
        metadata = self._pod["metadata"]
        if keyed := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
            return metadata.get(keyed[1], {}).get(keyed[2], "")
        if path in ("metadata.labels", "metadata.annotations"):
            items = sorted(metadata.get(path.removeprefix("metadata."), {}).items())
            return "\n".join(f"{key}={_quoted(value)}" for key, value in items)
        fixed = {"status.podIP": ip, "status.podIPs": ip, "status.hostIP": "127.0.0.1"}
        if path in fixed:
            return fixed[path]
        part, _, name = path.partition(".")
        return str(self._pod[part].get(name, ""))

    def _data(self, kind: str, name: str, *, optional: bool | None = None) -> dict[str, bytes]:
        found = self._api.find({"secret": "v1/Secret", "configMap": "v1/ConfigMap"}[kind], name, self._namespace)
        if found is None:
            if optional:
                return {}
            raise CannotStartError("CreateContainerConfigError", f'{kind.lower()} "{name}" not found')
        binary = found.get("data" if kind == "secret" else "binaryData") or {}
        text = {} if kind == "secret" else found.get("data") or {}
        return {key: base64.b64decode(value) for key, value in binary.items()} | {
            key: value.encode() for key, value in text.items()
        }

    def _mounts(self) -> dict[str, Path]:
        """Where each mount path is. What the tests keep on this machine stays where it is, though it is below /tmp."""
        volumes = {volume["name"]: volume for volume in self._pod["spec"].get("volumes", [])}
        found = {str(self._control_plane.folder.parent): self._control_plane.folder.parent}
        for mount in self._container.get("volumeMounts", []):
            root = self._volume(volumes[mount["name"]])
            found[mount["mountPath"].rstrip("/")] = root / mount.get("subPath", "")
        return found

    def _volume(self, volume: Object) -> Path:
        if "hostPath" in volume:
            return Path(volume["hostPath"]["path"])
        folder = self._folder / "volumes" / volume["name"]
        if "persistentVolumeClaim" in volume:
            folder = self._folder.parent / "claims" / self._namespace / volume["persistentVolumeClaim"]["claimName"]
        folder.mkdir(parents=True, exist_ok=True)
        sources = volume.get("projected", {}).get("sources", [volume])
        for source in sources:
            for name, data in self._files(source).items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
        return folder

    def _files(self, source: Object) -> dict[str, bytes]:
        if "downwardAPI" in source:
            return {item["path"]: self._field_of(item).encode() for item in source["downwardAPI"]["items"]}
        if "serviceAccountToken" in source:
            account = self._pod["spec"].get("serviceAccountName", "default")
            token = self._control_plane.service_account_token(self._namespace, account)
            return {source["serviceAccountToken"]["path"]: token.encode()}
        for kind in ("secret", "configMap"):
            if kind in source:
                name = source[kind].get("secretName") or source[kind]["name"]
                return self._selected(kind, name, source[kind])
        return {}  # an empty folder, or one that is kept

    def _selected(self, kind: str, name: str, source: Object) -> dict[str, bytes]:
        try:
            data = self._data(kind, name, optional=source.get("optional"))
        except CannotStartError as error:  # here the pod waits, and events tell why
            raise CannotStartError("ContainerCreating", str(error)) from None
        items = source.get("items")
        return {item["path"]: data[item["key"]] for item in items} if items else data

    def _field_of(self, item: Object) -> str:
        return self._field(item["fieldRef"]["fieldPath"])


def _expanded(text: str, env: Mapping[str, str]) -> str:
    """`$(NAME)` replaced where there is such a variable; `$$` stands for `$`."""

    def replaced(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else env.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]+)\)", replaced, text)


def _rewritten(text: str, paths: Mapping[str, Path]) -> str:
    """Mount paths replaced by where they are, the longest first."""
    if not paths:
        return text
    names = "|".join(re.escape(path) for path in sorted(paths, key=len, reverse=True))
    return re.sub(rf"(?<![\w.-])({names})(?![\w.-])", lambda match: str(paths[match[1]]), text)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _tail(path: Path, num_bytes: int) -> bytes:
    return path.read_bytes()[-num_bytes:] if path.exists() else b""
