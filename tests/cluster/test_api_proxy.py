"""The proxy in front of the API server: what it counts, and the harm it does."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cluster import api_harms as harms
from cluster import programs
from cluster.api import wait_for
from kubernetes import client, config, watch

if TYPE_CHECKING:
    from cluster.api_proxy import ApiProxy, Harm
    from cluster.control_plane import ControlPlane

pytestmark = pytest.mark.cluster


@pytest.fixture
def robot(control_plane: ControlPlane, api_proxy: ApiProxy, namespace: str) -> Iterator[Any]:
    """A real client that goes through the proxy, with a service account that may do all with config maps."""
    control_plane.apply(
        """
        apiVersion: rbac.authorization.k8s.io/v1
        kind: Role
        metadata: {name: robot}
        rules: [{apiGroups: [""], resources: [configmaps], verbs: ["*"]}]
        ---
        apiVersion: rbac.authorization.k8s.io/v1
        kind: RoleBinding
        metadata: {name: robot}
        roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: robot}
        subjects: [{kind: ServiceAccount, name: default}]
        """,
        namespace,
    )
    control_plane.wait_for_right(namespace, "default", "create", "configmaps")
    document = yaml.safe_load(api_proxy.kubeconfig(namespace).read_text())
    made = config.new_client_from_config_dict(document)
    made.configuration.retries = False
    with made:
        yield client.CoreV1Api(made)


def config_map(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}}


def names(control_plane: ControlPlane, namespace: str) -> set[str]:
    found = control_plane.api.list("v1/ConfigMap", namespace)
    return {item["metadata"]["name"] for item in found} - {"kube-root-ca.crt"}


def test_writes_are_numbered_and_harmed_by_number(
    control_plane: ControlPlane, api_proxy: ApiProxy, robot: Any, namespace: str
) -> None:
    robot.create_namespaced_config_map(namespace, config_map("first"))
    api_proxy.harms |= {2: harms.answer(409, "AlreadyExists"), 3: harms.answer(429, retry_seconds=7)}
    api_proxy.harms |= {4: harms.answer_after_commit(500), 5: harms.lose_answer, 6: harms.lose_request}
    with pytest.raises(client.ApiException, match="AlreadyExists") as refused:
        robot.create_namespaced_config_map(namespace, config_map("second"))
    assert refused.value.status == 409
    with pytest.raises(client.ApiException) as refused:
        robot.create_namespaced_config_map(namespace, config_map("third"))
    assert refused.value.headers["Retry-After"] == "7"
    with pytest.raises(client.ApiException):
        robot.create_namespaced_config_map(namespace, config_map("fourth"))
    for name in ("fifth", "sixth"):
        with pytest.raises(Exception, match=r"Connection aborted|without response"):
            robot.create_namespaced_config_map(namespace, config_map(name))
    robot.patch_namespaced_config_map("first", namespace, {"data": {"a": "b"}})
    robot.delete_namespaced_config_map("first", namespace)
    assert names(control_plane, namespace) == {"fourth", "fifth"}
    assert api_proxy.writes == [
        *["POST configmaps"] * 6,
        "PATCH configmaps/first",
        "DELETE configmaps/first",
    ]


@pytest.mark.parametrize(("harm", "left"), [(harms.kill_before, set()), (harms.kill_after, {"made"})])
def test_the_writer_is_killed(
    control_plane: ControlPlane, api_proxy: ApiProxy, robot: Any, namespace: str, harm: Harm, left: set[str]
) -> None:
    api_proxy.harms[1] = harm
    kubectl = str(programs.binary("kubectl"))
    command = [kubectl, "--kubeconfig", str(api_proxy.kubeconfig(namespace)), "create", "configmap", "made"]
    with subprocess.Popen(command) as process:
        api_proxy.victim = process.pid
    assert process.returncode == -9
    assert names(control_plane, namespace) == left


class Follower(threading.Thread):
    """The kubernetes package's own watch, which lists again after a 410."""

    def __init__(self, robot: Any, namespace: str) -> None:
        super().__init__(daemon=True)
        self.robot, self.namespace = robot, namespace
        self.seen: list[str] = []
        self.ends: list[str] = []
        self.start()

    def run(self) -> None:
        while "stop" not in self.ends:
            found = self.robot.list_namespaced_config_map(self.namespace)
            self.seen.append(
                "listed " + " ".join(item.metadata.name for item in found.items if "kube" not in item.metadata.name)
            )
            stream = watch.Watch()
            try:
                version = found.metadata.resource_version
                for event in stream.stream(
                    self.robot.list_namespaced_config_map, self.namespace, resource_version=version, timeout_seconds=30
                ):
                    self.seen.append(f"{event['type']} {event['object'].metadata.name}")
            except client.ApiException as error:
                self.ends.append(str(error.status))


def test_watches_pass_lose_events_and_are_cut(
    control_plane: ControlPlane, api_proxy: ApiProxy, robot: Any, namespace: str
) -> None:
    follower = Follower(robot, namespace)
    wait_for(lambda: api_proxy.watches)

    def make(name: str) -> None:
        control_plane.api.create({"apiVersion": "v1", "kind": "ConfigMap", **config_map(name)}, namespace)

    make("first")
    wait_for(lambda: "ADDED first" in follower.seen)
    api_proxy.drops = lambda request, event: event["object"]["metadata"]["name"] == "unseen"
    make("unseen")
    make("second")
    wait_for(lambda: "ADDED second" in follower.seen)
    api_proxy.pause()
    assert api_proxy.cut_watches(gone=True) == 1
    control_plane.api.delete("v1/ConfigMap", "first", namespace)
    api_proxy.resume()
    wait_for(lambda: "listed second unseen" in follower.seen)
    assert "DELETED first" not in follower.seen
    assert follower.seen.count("ADDED unseen") == 0
    follower.ends.append("stop")
    wait_for(lambda: not follower.is_alive() or api_proxy.cut_watches(gone=True) < 0)
