"""The node's programs: the control plane of tests/cluster at an address that pods reach, and what runs pods."""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from cluster import keys, programs
from cluster.api import Object, wait_for
from cluster.control_plane import ControlPlane

from node import machine
from node.runtime import Runtime

NAME = "node-1"
_PODS = "198.51.100.0/24"
_SERVICES = "198.18.0.0/16"
_READY_SECONDS = 90


@dataclass
class Node(ControlPlane):
    """A running node. Its programs are started again where they end, as a service manager would."""

    images: Path = Path()
    """Where images are kept."""
    restarts: dict[str, Callable[[], None]] = field(default_factory=dict)

    @property
    def runtime(self) -> Runtime:
        """What runs containers."""
        return Runtime(self.folder, self.images)

    # ---- the control plane, as seen from pods

    @property
    def server(self) -> str:
        return f"https://{machine.ADDRESS}:{self.port}"

    @property
    def users(self) -> dict[str, tuple[str, str]]:
        return super().users | {
            "node": (f"system:node:{NAME}", "system:nodes"),
            "proxy": ("system:kube-proxy", ""),
            "dns": ("system:dns", ""),
        }

    @property
    def certificate_names(self) -> list[str]:
        first = str(next(ipaddress.ip_network(_SERVICES).hosts()))
        return [*super().certificate_names, machine.ADDRESS, first, "kubernetes.default.svc"]

    def _apiserver(self) -> list[str]:
        changed = {
            "--bind-address": "0.0.0.0",
            "--advertise-address": machine.ADDRESS,
            "--endpoint-reconciler-type": "master-count",
            "--authorization-mode": "Node,RBAC",
            "--service-cluster-ip-range": _SERVICES,
            "--disable-admission-plugins": "",
            "--enable-admission-plugins": "NodeRestriction",
            "--allow-privileged": "true",
            "--kubelet-preferred-address-types": "InternalIP",
            "--kubelet-client-certificate": "kubelet-client.crt",
            "--kubelet-client-key": "kubelet-client.key",
        }
        known = dict(option.partition("=")[::2] for option in super()._apiserver())
        return [f"{name}={value}" for name, value in (known | changed).items() if value]

    def _controller_manager(self) -> list[str]:
        everything = [option for option in super()._controller_manager() if not option.startswith("--controllers=")]
        return [*everything, "--leader-elect=false"]

    # ---- what runs pods

    def start(self) -> None:
        """Start everything, and wait until the node takes pods."""
        keys.make_client_certificate(self.folder / "kubelet-client.crt", self.folder / "kubelet-client.key")
        super().start()
        self.runtime.write_files()
        self._start("containerd", "--config", "containerd.toml")
        self.runtime.begin()
        self._write_node_files()
        self.apply(_RIGHTS)
        self.apply(_volumes(self.folder / "volumes"))
        node = ["--kubeconfig=node.kubeconfig", f"--hostname-override={NAME}", f"--node-ip={machine.ADDRESS}"]
        self._start("kubelet", "--config=kubelet.yaml", f"--root-dir={self.folder / 'kubelet'}", *node)
        self._start("kube-proxy", "--kubeconfig=proxy.kubeconfig", f"--hostname-override={NAME}", *_PROXY)
        self._start("coredns", "-conf", "Corefile")
        wait_for(self._is_node_ready, _READY_SECONDS, "the node is ready")

    def _is_node_ready(self) -> bool:
        conditions = self.api.get("v1/Node", NAME)["status"]["conditions"]
        dead = [name for name, process in self.programs.items() if process.poll() is not None]
        if dead:
            raise RuntimeError(f"{dead[0]} does not start\n{self.log(dead[0])[-3000:]}")
        return any((one["type"], one["status"]) == ("Ready", "True") for one in conditions)

    def _start(self, name: str, *options: str) -> None:
        super()._start(name, *options)
        self.restarts[name] = lambda: super(Node, self)._start(name, *options)
        (self.folder / f"{name}.pid").write_text(str(self.programs[name].pid))

    def run(self, command: list[str]) -> int:
        """Run a command while the node runs; its exit code."""
        environment = os.environ | {
            "KUBECONFIG": str(self.kubeconfig),
            "REFRAIN_NODE": str(self.folder),
            "PATH": f"{programs.binary('kubectl').parent}:{os.environ['PATH']}",
        }
        process = subprocess.Popen(command, env=environment)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells the command too, which ends in its own way
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        while process.poll() is None:
            self._start_again()
            time.sleep(0.2)
        return process.returncode

    def _start_again(self) -> None:
        for name, process in list(self.programs.items()):
            if process.poll() is not None:
                print(f"node: {name} has ended ({process.returncode}); it is started again", file=sys.stderr)
                time.sleep(1)
                self.restarts[name]()
                (self.folder / f"{name}.pid").write_text(str(self.programs[name].pid))

    def stop(self) -> None:
        """End all programs, pods' too."""
        machine.end_everything()
        super().stop()

    def _write_node_files(self) -> None:
        (self.folder / "resolv.conf").touch()
        (self.folder / "kubelet.yaml").write_text(yaml.safe_dump(self._kubelet()))
        (self.folder / "Corefile").write_text(_COREFILE.format(address=machine.ADDRESS, folder=self.folder))

    def _kubelet(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.folder / "kubelet-client.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{machine.CGROUP}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,  # root may lack CAP_SYS_RESOURCE
            "containerRuntimeEndpoint": f"unix://{self.runtime.socket}",
            "clusterDNS": [machine.ADDRESS],
            "clusterDomain": "cluster.local",
            "resolvConf": str(self.folder / "resolv.conf"),
            "podLogsDir": str(self.folder / "pod-logs"),
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
        }


def _volumes(folder: Path, number: int = 20) -> list[Object]:
    """Folders as volumes, each for one claim, of the default storage class."""
    storage: Object = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "folders", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
    }
    volumes = [storage]
    for name in (f"folder-{one}" for one in range(number)):
        (folder / name).mkdir(parents=True)
        (folder / name).chmod(0o777)  # a pod's group is not given to such volumes
        spec = {
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "storageClassName": "folders",
            "hostPath": {"path": str(folder / name)},
        }
        volumes.append({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec})
    return volumes


_PROXY = (
    f"--cluster-cidr={machine.PODS}",
    "--conntrack-max-per-core=0",
    "--conntrack-tcp-timeout-established=0",
    "--conntrack-tcp-timeout-close-wait=0",
)

_COREFILE = """\
.:53 {{
  bind {address}
  errors
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {folder}/dns.kubeconfig
  }}
  cache 5
}}
"""

_RIGHTS = """
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: node-proxier},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:node-proxier"},
 subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "system:kube-proxy"}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: dns}
rules:
- {apiGroups: [""], resources: [services, pods, namespaces], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: dns},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: dns},
 subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "system:dns"}]}
"""
