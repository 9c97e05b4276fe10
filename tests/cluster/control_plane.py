"""Kubernetes' control plane for tests: etcd, API server, controller manager and scheduler on loopback, without root.

`control_plane` is started once for all tests of a process; `namespace` is a new namespace for each test.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import textwrap
import time
import uuid
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
import yaml
from cluster import audit, programs
from cluster.api import Api, ApiError, Object, wait_for
from servers.s3 import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from cluster.audit import AuditEvent

_START_SECONDS = 60
_USERS = {
    "admin": ("admin", "system:masters"),
    "kubelet": ("kubelet", "system:masters"),
    "controllers": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
}


@dataclass
class ControlPlane:
    """A running control plane."""

    folder: Path
    etcd_port: int = field(default_factory=free_port)
    port: int = field(default_factory=free_port)
    programs: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    leaving: set[str] = field(default_factory=set)
    """Namespaces whose deletion has begun."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path:
        """The certificate that clients trust."""
        return self.folder / "apiserver.crt"

    @property
    def key(self) -> Path:
        """Of that certificate."""
        return self.folder / "apiserver.key"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.folder / "admin.kubeconfig"

    @cached_property
    def api(self) -> Api:
        """The administrator's client."""
        return self.user("admin")

    def user(self, name: str) -> Api:
        """A client of `admin` or `kubelet`."""
        return Api(self.server, f"{name}-token", self.ca)

    @property
    def users(self) -> dict[str, tuple[str, str]]:
        """Who has a token, and a kubeconfig: user and group."""
        return _USERS

    @property
    def certificate_names(self) -> list[str]:
        """By which the API server is reached."""
        return ["localhost", "127.0.0.1"]

    # ---- what tests do

    def kubectl(
        self,
        *arguments: object,
        input: str | None = None,  # noqa: A002 - as subprocess.run has it
        check: bool = True,
        kubeconfig: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator, or as another; what it says on failure is in the AssertionError."""
        done = subprocess.run(
            [programs.binary("kubectl"), *map(str, arguments)],
            env={**os.environ, "KUBECONFIG": str(kubeconfig or self.kubeconfig), "KUBECACHEDIR": str(self.folder)},
            input=input,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 or not check, f"kubectl {' '.join(map(str, arguments))}: {done.stderr}"
        return done

    def new_namespace(self, labels: dict[str, str] | None = None) -> str:
        """A new namespace's name. Its service account `default` is there."""
        name = f"test-{next(self._numbers)}"
        metadata: Object = {"name": name, "labels": labels or {}}
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        account: Object = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        with contextlib.suppress(ApiError):  # the controller manager was quicker
            self.api.create(account, name)
        return name

    def delete_namespace(self, name: str) -> None:
        """Begin to delete it."""
        self.leaving.add(name)
        with contextlib.suppress(ApiError):
            self.api.delete("v1/Namespace", name)

    def apply(self, documents: str | Object | Iterable[Object], namespace: str | None = None) -> list[Object]:
        """Apply YAML text or documents on the server side; a resource definition is waited for until it serves."""
        if isinstance(documents, str):
            documents = [document for document in yaml.safe_load_all(textwrap.dedent(documents)) if document]
        made = [self.api.apply(item, namespace) for item in ([documents] if isinstance(documents, dict) else documents)]
        for item in made:
            if item["kind"] == "CustomResourceDefinition":
                self._wait_until_served(item)
        return made

    def _wait_until_served(self, definition: Object) -> None:
        name, spec = definition["metadata"]["name"], definition["spec"]

        def is_served() -> bool:
            status = self.api.get("apiextensions.k8s.io/v1/CustomResourceDefinition", name).get("status", {})
            assert {"type": "Established", "status": "True"}.items() <= _condition(status, "Established").items()
            for version in spec["versions"]:
                self.api.request("GET", f"/apis/{spec['group']}/{version['name']}/{spec['names']['plural']}")
            return True

        wait_for(is_served, what=f"{name} is established")

    def service_account_token(self, namespace: str, name: str = "default", seconds: int = 86_400) -> str:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        path = self.api.path("v1/ServiceAccount", namespace, name, "token")
        return self.api.request("POST", path, body)["status"]["token"]

    def service_account(self, namespace: str, name: str = "default") -> Api:
        """A client with the rights of a service account."""
        return Api(self.server, self.service_account_token(namespace, name), self.ca)

    def service_account_kubeconfig(self, namespace: str, name: str = "default") -> Path:
        token = self.service_account_token(namespace, name)
        path = self.folder / f"{namespace}-{name}-{next(self._numbers)}.kubeconfig"
        return write_kubeconfig(path, self.server, token, self.ca, namespace)

    def wait_for_right(self, namespace: str, account: str, verb: str, resource: str, group: str = "") -> None:
        """Until a role that was just bound to a service account is known to the API server."""
        what = {"namespace": namespace, "verb": verb, "resource": resource, "group": group}
        spec = {"user": f"system:serviceaccount:{namespace}:{account}", "resourceAttributes": what}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        wait_for(lambda: self.api.create({**body, "metadata": {}})["status"]["allowed"], what=f"{account} may {verb}")

    def mark(self) -> int:
        """The present end of the audit log, for `audit(since=…)`."""
        self._wait_for_audit()
        return self._audit_log.stat().st_size

    def audit(
        self, since: int = 0, *, user: str = "", namespace: str = "", writes: bool | None = None
    ) -> list[AuditEvent]:
        """The requests that were answered by now, in order; of a user, about a namespace, those that write."""
        self._wait_for_audit()
        return [
            event
            for event in audit.read(self._audit_log, since)
            if (not user or event.user == user)
            and (not namespace or event.namespace == namespace)
            and writes in (None, event.is_write)
            and _BARRIER not in event.uri
        ]

    def _wait_for_audit(self) -> None:
        # The log is written at a request's end, which a client may see first: so one more request, of a known name.
        name = f"{_BARRIER}{uuid.uuid4()}"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        start = self._audit_log.stat().st_size
        self.api.request("POST", path, body, query={"fieldManager": name})
        wait_for(
            lambda: any(name in e.uri and e.stage == "ResponseComplete" for e in audit.read(self._audit_log, start)),
            what="the audit log is written",
        )

    @property
    def _audit_log(self) -> Path:
        return self.folder / "audit.log"

    # ---- its programs

    def start(self) -> None:
        self._write_files()
        self._start_etcd()
        self.start_apiserver()
        self._start("kube-controller-manager", *self._controller_manager())
        self._start("kube-scheduler", *_as("scheduler", self.folder))

    def stop(self) -> None:
        """End all programs, at once: nothing of theirs is kept."""
        for process in reversed(self.programs.values()):
            programs.signal_group(process, signal.SIGKILL)
        for process in self.programs.values():
            process.wait()

    def restart_apiserver(self) -> None:
        """Kill the API server, and start it again: watches break, etcd keeps all."""
        self.stop_apiserver()
        self.start_apiserver()

    def stop_apiserver(self) -> None:
        process = self.programs["kube-apiserver"]
        programs.signal_group(process, signal.SIGKILL)
        process.wait()

    def start_apiserver(self) -> None:
        """Start it, and wait until it is ready."""
        self._start("kube-apiserver", *self._apiserver())
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_ready():
            if self.programs["kube-apiserver"].poll() is not None or time.monotonic() > deadline:
                logs = [f"{name}:\n{self.log(name)[-3000:]}" for name in self.programs]
                raise RuntimeError("the API server does not start\n" + "\n".join(logs))
            time.sleep(0.02)

    def log(self, program: str) -> str:
        """What a program (`kube-scheduler` …) has said."""
        return (self.folder / f"{program}.log").read_text(errors="replace")

    def _is_ready(self) -> bool:
        try:
            return self.api.request("GET", "/readyz", seconds=2) == "ok"
        except (ApiError, OSError, urllib3.exceptions.HTTPError):
            return False

    def _start(self, name: str, *options: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as output:
            self.programs[name] = programs.start([str(programs.binary(name)), *options], output, cwd=self.folder)

    def _start_etcd(self) -> None:
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{free_port()}"
        urls = ["--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer]
        urls += ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
        self._start("etcd", "--data-dir", "etcd", "--unsafe-no-fsync", "--log-level", "warn", *urls)
        # An API server that comes first waits a second before it tries again.
        deadline = time.monotonic() + _START_SECONDS
        with socket.socket() as probe:
            while probe.connect_ex(("127.0.0.1", self.etcd_port)):
                if self.programs["etcd"].poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"etcd does not start\n{self.log('etcd')[-3000:]}")
                time.sleep(0.01)

    def _apiserver(self) -> list[str]:
        address = ["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={self.port}"]
        return [
            *address,
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            "--endpoint-reconciler-type=none",
            "--tls-cert-file=apiserver.crt",
            "--tls-private-key-file=apiserver.key",
            "--token-auth-file=tokens.csv",
            "--anonymous-auth=false",
            "--authorization-mode=RBAC",
            "--service-account-key-file=sa.pub",
            "--service-account-signing-key-file=sa.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=198.18.0.0/16",
            "--audit-policy-file=audit-policy.json",
            "--audit-log-path=audit.log",
            "--audit-log-mode=blocking",
            "--audit-log-maxsize=100000",
            # The node is played: its conditions are what the test says.
            "--disable-admission-plugins=TaintNodesByCondition",
            # Nodes are not gone for minutes here.
            "--default-unreachable-toleration-seconds=1",
            "--default-not-ready-toleration-seconds=1",
            "--enable-priority-and-fairness=false",
        ]

    def _controller_manager(self) -> list[str]:
        return [
            *_as("controllers", self.folder),
            "--controllers=*,-node-lifecycle-controller",
            "--service-account-private-key-file=sa.key",
            "--root-ca-file=apiserver.crt",
            "--use-service-account-credentials",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        ]

    def _write_files(self) -> None:
        from cluster import keys

        keys.make_serving_certificate(self.ca, self.key, self.certificate_names)
        keys.make_signing_keys(self.folder / "sa.key", self.folder / "sa.pub")
        (self.folder / "audit-policy.json").write_text(json.dumps(audit.POLICY))
        (self.folder / "audit.log").touch()
        rows = [f'{name}-token,{user},{name},"{groups}"\n' for name, (user, groups) in self.users.items()]
        (self.folder / "tokens.csv").write_text("".join(rows))
        for name in self.users:
            write_kubeconfig(self.folder / f"{name}.kubeconfig", self.server, f"{name}-token", self.ca)


_BARRIER = "audit-barrier-"


def _condition(status: Object, kind: str) -> Object:
    return next((item for item in status.get("conditions") or [] if item["type"] == kind), {})


def _as(user: str, folder: Path) -> list[str]:
    file = folder / f"{user}.kubeconfig"
    options = ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"]
    return [*(f"--{option}={file}" for option in options), "--leader-elect=false", "--secure-port=0"]


def write_kubeconfig(path: Path, server: str, token: str, ca: Path | None = None, namespace: str = "default") -> Path:
    """A file that says where the API server is, and who one is."""
    cluster: dict[str, Any] = {"server": server} | ({"certificate-authority": str(ca)} if ca else {})
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        "current-context": "test",
    }
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The control plane, started once for all tests of a process."""
    for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"):
        programs.binary(name)
    running = _started(tmp_path_factory)
    try:
        yield running
        dead = [name for name, process in running.programs.items() if process.poll() is not None]
        assert not dead, f"{dead[0]} has ended by itself: {running.log(dead[0])[-3000:]}"
    finally:
        running.stop()


def _started(tmp_path_factory: pytest.TempPathFactory, attempts: int = 3) -> ControlPlane:
    made = ControlPlane(tmp_path_factory.mktemp("control-plane"))
    try:
        made.start()
    except BaseException as error:
        made.stop()
        if attempts > 1 and isinstance(error, RuntimeError):  # somebody else has taken a port in the meantime
            return _started(tmp_path_factory, attempts - 1)
        raise
    return made


@pytest.fixture
def new_namespace(control_plane: ControlPlane) -> Iterator[Callable[[], str]]:
    """Makes namespaces; their deletion is begun at the test's end."""
    names: list[str] = []

    def new(**labels: str) -> str:
        names.append(control_plane.new_namespace(labels))
        return names[-1]

    yield new
    for name in names:
        control_plane.delete_namespace(name)


@pytest.fixture
def namespace(new_namespace: Callable[[], str]) -> str:
    """A new namespace for the test."""
    return new_namespace()
