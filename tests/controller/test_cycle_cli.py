"""`refrain cycle` on a real control plane, beside a real controller: one namespace, an archive for each test."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import signal
import ssl
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from cluster.api import Object, wait_for
from cluster.control_plane import write_kubeconfig
from cluster.kubelet import Kubelet, Play
from controller_process import Operator, failing, operator, played, stage_of
from controller_world import RESULTS, WINNER, spec_of

from jobs.cli import main
from jobs.contracts.errors import InputError

if TYPE_CHECKING:
    from cluster.control_plane import ControlPlane

pytestmark = pytest.mark.cluster
REFRAIN = str(Path(sys.executable).with_name("refrain"))


SKIPPED = RESULTS | {"window": {"window_idx": 3, "num_new_train_messages": 2, "skipped": True}}


def short(pod: Object) -> Play:
    """A stage that ends well, in a cycle that is skipped behind its third."""
    return played(pod, SKIPPED)


@dataclass
class Done:
    code: int
    out: str
    err: str


@dataclass
class World:
    """The namespace, its controller, and what its pods do."""

    operator: Operator
    kubelet: Kubelet
    kubeconfig: Path
    rules: dict[str, Callable[[Object], Play]] = field(default_factory=dict)
    """By archive."""
    printed: dict[str, list[bytes]] = field(default_factory=dict)
    """By stage: what its pods print, in parts."""

    def rule(self, pod: Object) -> Play:
        return self.rules.get(pod["metadata"]["labels"].get("refrain.dev/archive", ""), played)(pod)

    def hang_at(self, archive: str, stage: str) -> None:
        self.rules[archive] = lambda pod: Play(hang=True) if stage_of(pod)[0] == stage else played(pod)

    def go_on(self, archive: str, cycle: str, rule: Callable[[Object], Play] = short) -> None:
        """End what hangs, well."""
        self.rules[archive] = rule
        for pod in self.operator.pods():
            if pod["metadata"]["labels"].get("refrain.dev/cycle") == cycle and pod["status"]["phase"] == "Running":
                message = played(pod).message
                self.kubelet.finish(self.operator.namespace, pod["metadata"]["name"], message=message)

    def cycle(self, *arguments: object, answer: str = "", kubeconfig: Path | None = None) -> Done:
        """`refrain cycle …` in this process."""
        out, err = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO())
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KUBECONFIG", str(kubeconfig or self.kubeconfig))
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(answer.encode())))
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    code = main(["cycle", *map(str, arguments)])
                except SystemExit as stop:
                    code = int(stop.code or 0)
        signal.signal(signal.SIGTERM, handler)
        for stream in (out, err):
            stream.flush()
        read = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
        return Done(code, *read)

    def start(self, *arguments: object, **options: object) -> subprocess.Popen[str]:
        """`refrain cycle …` in a process of its own."""
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        return subprocess.Popen([REFRAIN, "cycle", *map(str, arguments)], env=environment, **pipes)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def world(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    namespace = control_plane.new_namespace()
    kubelet = Kubelet(control_plane, "node-of-cli", tmp_path_factory.mktemp("kubelet"))
    kubelet.start()
    kubelet.offer_gpus(16)
    folder = tmp_path_factory.mktemp("cli")
    server, token = control_plane.server, "admin-token"
    kubeconfig = write_kubeconfig(folder / "kubeconfig", server, token, control_plane.ca, namespace)
    try:
        with operator(control_plane, namespace, folder) as made:
            made.start()
            found = World(made, kubelet, kubeconfig)
            kubelet.rule = found.rule
            with node_logs(control_plane, kubelet, found.printed):
                yield found
    finally:
        control_plane.delete_namespace(namespace)
        kubelet.stop()
    assert not kubelet.errors, "\n".join(kubelet.errors)


@contextlib.contextmanager
def node_logs(control_plane: ControlPlane, kubelet: Kubelet, printed: dict[str, list[bytes]]) -> Iterator[None]:
    """The kubelet's own server, which the API server asks for logs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            _, kind, _namespace, pod, container = path.split("/")
            assert (kind, container) == ("containerLogs", "stage"), self.path
            if pod.startswith("slow-"):
                said = f'container "stage" in pod "{pod}" is waiting to start: ContainerCreating'
                self.send_response(400)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said.encode())
                return
            stage = next(stage for stage in (*printed, "") if f"-{stage}-" in pod or not stage)
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in printed.get(stage, [f"{pod} {query}\n".encode()]):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
                time.sleep(0.2 if "follow=true" in query else 0)
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(control_plane.ca, control_plane.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    endpoint = {"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": server.server_port}}}}
    control_plane.api.patch("v1/Node", kubelet.node, None, endpoint, subresource="status")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def written(folder: Path, name: str, archive: str, **changes: object) -> Path:
    file = folder / "cycle.yaml"
    document = {
        "apiVersion": "refrain.dev/v1alpha1",
        "kind": "RetrainCycle",
        "metadata": {"name": name},
        "spec": spec_of(archive=archive, **changes),
    }
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


def test_from_create_to_promoted(world: World, tmp_path: Path) -> None:
    file = written(tmp_path, "first", "happy")
    dry = world.cycle("create", file, "--dry-run")
    assert (dry.code, dry.err) == (0, "")
    assert dry.out == f"first: would be created (dry run) in namespace {world.operator.namespace}, for archive happy\n"
    assert world.cycle("show", "first").code == 66, "a dry run creates nothing"
    made = world.cycle("create", "-", "--name", "second", answer=file.read_text())
    assert made.out.startswith("second: created in namespace")
    again = world.cycle("create", file, "--name", "second")
    assert again.code == 65
    assert "there is a cycle second already" in again.err
    assert "--name" in again.err

    watched = world.cycle("watch", "second")
    assert watched.code == 0, watched
    lines = watched.out.splitlines()
    assert lines[-1] == "Promoted: step_4 is better"
    assert any("  train: done in " in line and line.endswith("best eval loss 1.5") for line in lines), lines
    assert world.cycle("watch", "second").out.splitlines()[-1] == lines[-1], "also when it has ended already"

    listed = world.cycle("list", "--archive", "happy").out.splitlines()
    assert listed[0].split()[:4] == ["NAME", "ARCHIVE", "STATE", "STAGE"]
    assert listed[1].split()[:8] == ["second", "happy", "Promoted", "promote", "-", "3", "+0.1000", "True"]
    nothing = world.cycle("list", "--archive", "nowhere")
    assert (nothing.code, nothing.out) == (0, "")
    assert "no cycles of archive nowhere in namespace" in nothing.err
    (raw,) = json.loads(world.cycle("list", "--json", "--archive", "happy").out)
    assert raw["status"]["state"] == "Promoted"
    assert "managedFields" not in raw["metadata"]

    shown = world.cycle("show", "second").out
    assert f"candidate cycles/w1/train/checkpoints/step_4 {WINNER} ppl 3.5" in shown
    assert "Normal Promoted: Promoted: step_4 is better" in shown
    assert json.loads(world.cycle("show", "second", "--json").out)["metadata"]["name"] == "second"
    for asked in (("retry", "second"), ("suspend", "second"), ("approve", "second")):
        refused = world.cycle(*asked)
        assert refused.code == 2, refused
        assert "Promoted" in refused.err


def test_a_file_that_is_wrong_is_refused_with_its_line(world: World, tmp_path: Path) -> None:
    file = written(tmp_path, "wrong", "wrong")
    file.write_text(file.read_text() + "  trainnig: {epochs: 3}\n")
    refused = world.cycle("create", file)
    assert refused.code == 78
    assert f"{file}, line {len(file.read_text().splitlines())}: spec.trainnig: there is no such field" in refused.err
    file = written(tmp_path, "wrong", "wrong")
    assert world.cycle("create", file, "--name", "No Name").code == 2
    elsewhere = yaml.safe_load(file.read_text())
    elsewhere["metadata"]["namespace"] = "elsewhere"
    file.write_text(yaml.safe_dump(elsewhere))
    assert world.cycle("create", file, "-n", world.operator.namespace).code == 2
    missing = world.cycle("create", file)
    assert missing.code == 66
    assert 'namespaces "elsewhere" not found' in missing.err


def test_failed_and_retried(world: World) -> None:
    def rule(pod: Object) -> Play:
        return failing(pod, InputError("cut", where="x")) if stage_of(pod)[0] == "split" else played(pod)

    world.rules["failed"] = rule
    world.operator.create("failed", archive="failed")
    watched = world.cycle("watch", "failed")
    assert watched.code == 65
    assert "refrain: error: failed: split: x: cut (exit code 65)" in watched.err
    assert "refrain cycle retry failed" in watched.err
    assert "→ mend it, then refrain cycle retry failed" in world.cycle("show", "failed").out
    world.rules["failed"] = short
    retried = world.cycle("retry", "failed")
    assert retried.out.startswith("failed: goes on from split when its turn comes (refrain.dev/retry=")
    world.operator.wait("failed", "Skipped")


def test_suspended_and_resumed(world: World, tmp_path: Path) -> None:
    world.cycle("create", written(tmp_path, "suspended", "suspended"), "--suspend")
    world.operator.wait("suspended", "Suspended")
    assert "is suspended already" in world.cycle("suspend", "suspended").out
    assert "→ refrain cycle resume suspended" in world.cycle("show", "suspended").out
    world.hang_at("suspended", "split")
    assert "resumed" in world.cycle("resume", "suspended").out
    assert "is not suspended" in world.cycle("resume", "suspended").out
    world.operator.wait_stage("suspended", "split")
    assert "suspended; what runs saves and stops" in world.cycle("suspend", "suspended").out
    world.operator.wait("suspended", "Suspended")
    world.rules["suspended"] = short
    world.cycle("resume", "suspended")
    world.operator.wait("suspended", "Skipped")


def test_approved(world: World) -> None:
    world.hang_at("manual", "split")
    world.operator.create("manual", archive="manual", promotion={"mode": "Manual"})
    world.operator.wait_stage("manual", "split")
    early = world.cycle("approve", "manual", "--yes")
    assert early.code == 2
    assert "manual has no candidate yet: it is Running at split" in early.err
    world.go_on("manual", "manual", played)
    world.operator.wait("manual", "AwaitingApproval")
    other = world.cycle("approve", "manual", "b" * 64, "--yes")
    assert other.code == 2
    assert f"the candidate of manual is {WINNER}, not bbbb" in other.err
    declined = world.cycle("approve", "manual", answer="n\n")
    assert declined.code == 130
    assert f"candidate  cycles/w1/train/checkpoints/step_4 {WINNER}" in declined.err
    assert "promotion" not in world.operator.get("manual")["spec"] or "approve" not in world.operator.get("manual")[
        "spec"
    ].get("promotion", {})
    approved = world.cycle("approve", "manual", answer="y\n")
    assert approved.out.endswith(f"manual: {WINNER} is approved\n")
    world.operator.wait("manual", "Promoted")


def test_logs(world: World) -> None:
    world.printed["split"] = [b"step 1\n", b"step 2 \xff\n"]
    world.hang_at("logs", "split")
    world.operator.create("logs", archive="logs")
    job = world.operator.wait_stage("logs", "split")
    wait_for(lambda: _phase(world, job) == "Running")
    with world.start("logs", "logs", "--follow", text=False) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"step 1\nstep 2 \xff\n"
    assert process.returncode == 0
    assert world.cycle("logs", "logs", "parse").out.startswith("logs-parse-0-0-")
    before = world.cycle("logs", "logs", "split", "--previous")
    assert before.code == 66
    assert "no pod before it of split is there" in before.err
    assert world.cycle("logs", "logs", "promote").code == 66
    world.cycle("delete", "logs", "--yes")


def _phase(world: World, job: str) -> str:
    (pod,) = [pod for pod in world.operator.pods() if pod["metadata"]["name"].startswith(job)]
    return str(pod["status"]["phase"])


def test_a_pod_that_has_not_started_has_no_logs(world: World) -> None:
    world.rules["slow"] = lambda pod: Play(never_starts=True) if stage_of(pod)[0] == "parse" else played(pod)
    world.operator.create("slow", archive="slow")
    world.operator.wait_stage("slow", "parse")
    wait_for(lambda: world.cycle("logs", "slow").code == 75, 20, "the API server's words")
    said = world.cycle("logs", "slow").err
    assert "waiting to start: ContainerCreating" in said
    assert "--follow waits for it" in said
    world.cycle("delete", "slow", "--yes")


def test_deleted(world: World) -> None:
    world.hang_at("deleted", "split")
    world.operator.create("deleted", archive="deleted")
    world.operator.wait_stage("deleted", "split")
    declined = world.cycle("delete", "deleted", answer="n\n")
    assert declined.code == 130
    assert "deleted is Running: split. Delete it?" in declined.err
    watcher = world.start("watch", "deleted")
    assert watcher.stdout is not None
    watcher.stdout.readline()
    done = world.cycle("delete", "deleted", "--yes")
    assert done.out == "deleted: deleted; what is in s3://refrain/deleted stays as it is\n"
    _, said = watcher.communicate(timeout=30)
    assert watcher.returncode == 66
    assert "cycle deleted was deleted" in said
    wait_for(lambda: not [job for job in world.operator.jobs() if job["metadata"]["name"].startswith("deleted-")])


def test_a_bug_report(world: World, control_plane: ControlPlane, tmp_path: Path) -> None:
    namespace = world.operator.namespace
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": {"KEY": "hunter2"}}
    control_plane.api.create(secret, namespace)
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "refrain-controller", "labels": {"app.kubernetes.io/name": "refrain"}},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {
                    "containers": [{"name": "c", "image": "i", "env": [{"name": "HF_TOKEN", "value": "hunter2"}]}]
                },
            },
        },
    }
    control_plane.api.create(deployment, namespace)
    world.rules["gathered"] = short
    world.printed["window"] = [b"window 3 by http://ann:hunter2@proxy:3128\n"]
    world.operator.create("gathered", archive="gathered")
    world.operator.wait("gathered", "Skipped")
    file = tmp_path / "report.tar.gz"
    done = world.cycle("gather", "gathered", "-o", file)
    assert (done.code, done.err) == (0, ""), done
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as archive:
        found = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
    assert b"hunter2" not in b"".join(found.values())
    assert json.loads(found["gathered/cycle.json"])["status"]["state"] == "Skipped"
    assert len([name for name in found if name.startswith("gathered/jobs/")]) == 3
    assert len([name for name in found if name.startswith("gathered/pods/")]) == 3
    (window,) = [name for name in found if name.startswith("gathered/logs/") and "-window-" in name]
    assert found[window] == b"window 3 by http://(removed)@proxy:3128\n"
    assert "gathered/controller/deployments/refrain-controller.json" in found
    assert any(event["reason"] == "TooFewMessages" for event in json.loads(found["gathered/events.json"]))
    assert b"gathered  gathered  Skipped" in found["gathered/archive.txt"]
    assert list(tmp_path.iterdir()) == [file]
    unwritable = world.cycle("gather", "gathered", "-o", tmp_path / "no" / "x.tar.gz")
    assert unwritable.code == 73


def test_rights_that_are_missing_are_named(world: World, control_plane: ControlPlane, tmp_path: Path) -> None:
    namespace = world.operator.namespace
    group = "rbac.authorization.k8s.io"
    rules = [{"apiGroups": ["refrain.dev"], "resources": ["retraincycles"], "verbs": ["get", "list"]}]
    subject = {"kind": "ServiceAccount", "name": "looker"}
    reference = {"apiGroup": group, "kind": "Role", "name": "looker"}
    for one in (
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "looker"}},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": {"name": "looker"}, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "looker"},
            "roleRef": reference,
            "subjects": [subject],
        },
    ):
        control_plane.api.create(one, namespace)
    looker = control_plane.service_account_kubeconfig(namespace, "looker")
    control_plane.wait_for_right(namespace, "looker", "list", "retraincycles", "refrain.dev")
    world.operator.create("looked-at", archive="looked-at", suspend=True)
    refused = world.cycle("create", written(tmp_path, "mine", "mine"), kubeconfig=looker)
    assert refused.code == 77
    assert "looker may not create retraincycles.refrain.dev" in refused.err
    assert 'verbs: ["create"]' in refused.err
    shown = world.cycle("show", "looked-at", kubeconfig=looker)
    assert shown.code == 0
    assert "without events: " in shown.err
    file = tmp_path / "report.tar.gz"
    gathered = world.cycle("gather", "looked-at", "-o", file, kubeconfig=looker)
    assert gathered.code == 0
    assert "without pods: " in gathered.err
    with tarfile.open(file) as archive:
        assert "looked-at/missing.txt" in archive.getnames()


def test_no_cluster_no_context_no_cycle(world: World, control_plane: ControlPlane, tmp_path: Path) -> None:
    nowhere = world.cycle("list", kubeconfig=tmp_path / "none")
    assert nowhere.code == 77
    assert "set KUBECONFIG" in nowhere.err
    assert world.cycle("list", "--context", "other").code == 77
    broken = tmp_path / "broken"
    broken.write_text("{")
    assert world.cycle("list", kubeconfig=broken).code == 77
    stranger = write_kubeconfig(tmp_path / "stranger", control_plane.server, "wrong", control_plane.ca)
    refused = world.cycle("list", kubeconfig=stranger)
    assert refused.code == 77
    assert "does not know you" in refused.err
    silent = write_kubeconfig(tmp_path / "silent", "https://127.0.0.1:9", "x")
    away = world.cycle("list", kubeconfig=silent)
    assert away.code == 75
    assert "is https://127.0.0.1:9 the right one, and is it up?" in away.err
    world.operator.create("close-by", archive="close", suspend=True)
    missing = world.cycle("show", "close-bye")
    assert missing.code == 66
    assert "did you mean close-by?" in missing.err
    several = yaml.safe_load(world.kubeconfig.read_text())
    del several["current-context"]
    without = tmp_path / "several"
    without.write_text(yaml.safe_dump(several))
    assert world.cycle("list", "--context", "test", kubeconfig=without).code == 0
    assert world.cycle("list", kubeconfig=without).code == 77


def test_watching_on_a_terminal_ends_cleanly_with_control_c(world: World) -> None:
    world.hang_at("terminal", "split")
    world.operator.create("terminal", archive="terminal")
    world.operator.wait_stage("terminal", "split")
    ours, theirs = pty.openpty()
    process = world.start("watch", "terminal", stdout=theirs)
    os.close(theirs)
    shown = b""
    while b"Running: split, for " not in shown:
        shown += os.read(ours, 1000)
    assert b"parse: done in " in shown
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # the other end is closed
        while part := os.read(ours, 1000):
            shown += part
    os.close(ours)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == "terminal goes on; refrain cycle watch terminal follows it again\n"
    assert shown.endswith(b"\r\x1b[K")
    world.cycle("delete", "terminal", "--yes")


def test_watching_survives_the_api_server(world: World, control_plane: ControlPlane) -> None:
    world.hang_at("away", "split")
    world.operator.create("away", archive="away")
    world.operator.wait_stage("away", "split")
    process = world.start("watch", "away")
    assert process.stdout is not None
    assert "parse: done in" in process.stdout.readline()
    control_plane.stop_apiserver()
    assert process.stderr is not None
    assert "trying again" in process.stderr.readline()
    control_plane.start_apiserver()
    world.go_on("away", "away")
    out, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert out.splitlines()[-1].startswith("Skipped: ")
    assert said == ""
