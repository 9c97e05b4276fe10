"""containerd: its configuration, and images from archives."""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cluster import programs
from cluster.api import wait_for

from node import machine, pause

_NAMESPACE = "k8s.io"


@dataclass(frozen=True)
class Runtime:
    """containerd in a folder of the node's, with images in another that outlives it."""

    folder: Path
    images: Path

    @property
    def socket(self) -> Path:
        return self.folder / "containerd.sock"

    def write_files(self) -> None:
        """What containerd reads at its start."""
        networks = self.folder / "cni"
        networks.mkdir()
        (networks / "10-bridge.conflist").write_text(json.dumps(self._network()))
        (self.folder / "containerd.toml").write_text(self._configuration())

    def begin(self) -> None:
        """Once it answers: forget containers of an earlier node, and bring the image that holds a pod's network."""
        wait_for(lambda: self._ctr("version", check=False).returncode == 0, what="containerd answers")
        for container in self._ctr("containers", "list", "--quiet").stdout.split():
            self._ctr("containers", "rm", container)
        if pause.IMAGE not in self._present():
            with tempfile.TemporaryDirectory() as scratch:
                archive = Path(scratch) / "pause.tar"
                pause.write_archive(programs.binary("pause"), archive)
                self._ctr("images", "import", "--local", archive)

    def load(self, archive: Path) -> str:
        """Bring an archive's image, unless it is there as it was loaded before; what was done."""
        name, config = described(archive)
        known = self.images.with_name("images.json")
        loaded = json.loads(known.read_text()) if known.exists() else {}
        if loaded.get(name) == config and name in self._present():
            return f"{name} is there"
        self._ctr("images", "import", "--local", archive)
        self._ctr("images", "tag", "--force", name, f"{name}-again")  # tests upgrade to it
        known.write_text(json.dumps(loaded | {name: config}))
        return f"{name} loaded"

    def _present(self) -> list[str]:
        """Names of images."""
        return self._ctr("images", "list", "--quiet").stdout.split()

    def _ctr(self, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [programs.binary("ctr"), "--address", self.socket, "--namespace", _NAMESPACE, *arguments]
        done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
        if check and done.returncode:
            raise RuntimeError(f"ctr {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return done

    def _network(self) -> object:
        routes = [{"dst": "0.0.0.0/0"}]
        ranges = [[{"subnet": machine.PODS}]]
        addresses = {"type": "host-local", "dataDir": str(self.folder / "ipam"), "ranges": ranges, "routes": routes}
        bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": addresses}
        ports = {"type": "portmap", "capabilities": {"portMappings": True}}
        return {"cniVersion": "1.0.0", "name": "refrain", "plugins": [bridge, ports]}

    def _configuration(self) -> str:
        return f"""\
version = 3
root = "{self.images}"
state = "{self.folder}/containerd"
[grpc]
  address = "{self.socket}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{machine.CNI}"]
    conf_dir = "{self.folder}/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      SystemdCgroup = false
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{pause.IMAGE}"
"""


def described(archive: Path) -> tuple[str, str]:
    """The name of the image in an archive (`docker save`), and its configuration's name, which is its digest."""
    with tarfile.open(archive) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        (image,) = json.load(manifest)
    return image["RepoTags"][0], image["Config"]
