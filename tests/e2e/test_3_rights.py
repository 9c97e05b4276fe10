"""What service accounts may not do is refused, `restricted` is enforced, and releases leave each other alone."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from e2e import kube
from e2e.releases import Release, cycle

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

MAY = {
    "controller": {
        "list retraincycles.refrain.dev",
        "patch retraincycles.refrain.dev/status",
        "create jobs.batch",
        "create events",
    },
    "schedule": {"create retraincycles.refrain.dev"},
    "stages": set(),
}
"""Of a release that serves nothing."""
MAY_NOT = (
    *("get secrets", "list secrets", "create pods", "get pods/log", "create pods/exec", "patch deployments.apps"),
    *("create roles.rbac.authorization.k8s.io", "patch retraincycles.refrain.dev", "get configmaps", "get nodes"),
)


@pytest.fixture(scope="module")
def two(new_release: Callable[..., Release]) -> tuple[Release, Release]:
    """Two releases; the second works in the store and on the archive of the first."""
    one = new_release("rights", inference={"enabled": False})
    quick = {"resyncSeconds": 15}  # the controller reads its settings as often
    other = new_release("rights-too", inference={"enabled": False}, schedule={"enabled": False}, controller=quick)
    return one, other


@pytest.mark.parametrize("account", MAY)
def test_a_service_account_may_do_what_it_needs_and_no_more(two: tuple[Release, Release], account: str) -> None:
    namespace = two[0].namespace
    needed = MAY[account]
    allowed = {what for what in needed if may(namespace, account, what, namespace) == "yes"}
    assert allowed == needed
    everything = set().union(*MAY.values()) | set(MAY_NOT)
    assert {what for what in everything - needed if may(namespace, account, what, namespace) == "yes"} == set()
    elsewhere = {what for what in everything if may(namespace, account, what, two[1].namespace) == "yes"}
    assert elsewhere == set()


def may(namespace: str, account: str, what: str, where: str) -> str:
    """`yes` or `no`, as the API server says for a service account."""
    verb, _, resource = what.partition(" ")
    resource, _, subresource = resource.partition("/")
    said = kube.kubectl(
        *("auth", "can-i", verb, resource, *([f"--subresource={subresource}"] if subresource else [])),
        *(f"--as=system:serviceaccount:{namespace}:refrain-{account}", "--namespace", where),
        check=False,
    )
    return said.strip()


def test_a_pod_with_more_than_restricted_is_refused(two: tuple[Release, Release]) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root"}, "spec": {"containers": [{"name": "root"}]}}
    pod["spec"]["containers"][0]["image"] = f"{kube.REGISTRY}/refrain-controller:0.1.0"  # type: ignore[index]
    said = kube.refused("apply", "--namespace", two[0].namespace, "--filename=-", stdin=json.dumps(pod))
    assert 'violates PodSecurity "restricted' in said


def test_a_pod_has_no_token_and_cannot_write_to_its_root(two: tuple[Release, Release]) -> None:
    for pod in two[0].pods():
        spec = pod["spec"]
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        assert spec.get("automountServiceAccountToken") == (component == "controller"), component
        assert all(one["securityContext"]["readOnlyRootFilesystem"] for one in spec["containers"])
    where = ("exec", "deployment/refrain-controller", "--namespace", two[0].namespace, "--", "python", "-c")
    assert "Read-only file system" in kube.refused(*where, "open('/x', 'w')")


def test_releases_do_not_touch_each_other_and_one_archive_is_claimed_once(two: tuple[Release, Release]) -> None:
    one, other = two
    kube.kubectl("get", "secret", "refrain-store", "--namespace", one.namespace)
    one.create("w1", evaluation=NO_QUESTIONS)
    one.wait("w1", "Promoted")
    assert other.pods("refrain.dev/cycle=w1") == []
    keys = kube.get("secret", "refrain-store", one.namespace)["data"]
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "theirs"}, "data": keys}
    kube.apply(secret, other.namespace)
    other.upgrade(store={"allowedSecrets": ["theirs"]})
    store = {
        "url": "s3://refrain",
        "endpoint": f"http://refrain-store.{one.namespace}:9000",
        "secretRef": {"name": "theirs"},
    }
    document = cycle("w1", store=store, evaluation=NO_QUESTIONS)
    kube.apply(document, other.namespace)
    refused = other.wait("w1", "Failed")
    said = kube.condition(refused, "Complete")["message"]
    assert "cluster:rights" in said, said
    one.create("w2", sources=[{"mbox": "s3://refrain/incoming/2.mbox"}], evaluation=NO_QUESTIONS)
    one.wait("w2", "Promoted")


NO_QUESTIONS = {"embeddingModel": "s3://refrain/models/embedder", "maxQueries": 0}
