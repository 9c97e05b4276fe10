"""`refrain cycle` beside a controller of its own: commands, what pods do and print, and a node that has their logs."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster.control_plane import write_kubeconfig
from cluster.kubelet import Kubelet, Play
from controller_process import Operator, operator, played, stage_of
from controller_world import SKIPPED

from jobs.cli import main

if TYPE_CHECKING:
    from cluster.api import Object
    from cluster.control_plane import ControlPlane

REFRAIN = str(Path(sys.executable).with_name("refrain"))


def short(pod: Object) -> Play:
    """A stage that ends well, in a cycle that is skipped behind its third."""
    return played(pod, SKIPPED)


@dataclass
class Done:
    code: int
    out: str
    err: str


@dataclass
class Commands:
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


@contextlib.contextmanager
def running(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """A controller in a namespace of its own, and the only node; ended with the block."""
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
            found = Commands(made, kubelet, kubeconfig)
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
