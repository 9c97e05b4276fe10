"""The charts by Helm on a real API server: what it takes, who may do what, upgrades, two releases, uninstalling.

There are no nodes here: pods are admitted, and wait. What runs in them is the end-to-end test's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cluster.api import ApiError, Object, wait_for
from helm import CASES, CHART, CRDS, NAMES, NEEDED, case, helm, pod_specs, sets
from helm_release import DEPLOYMENT, RESTRICTED, Release

from controller.serving import INFERENCE_RIGHTS, RIGHTS

if TYPE_CHECKING:
    from cluster.control_plane import ControlPlane

pytestmark = pytest.mark.cluster

PAGE = Path(__file__).parents[2] / "docs" / "upgrade.md"


@pytest.mark.parametrize("name", NAMES)
def test_the_api_server_takes_every_object(release: Release, name: str) -> None:
    """Strictly: an unknown field is refused, as is a pod that is not restricted, by its template's own pod."""
    objects = [one for one in case(name) if one["kind"] != "CustomResourceDefinition"]
    for one in objects:
        one["metadata"].pop("namespace", None)
        query = {"fieldManager": "tests", "force": "true", "fieldValidation": "Strict", "dryRun": "All"}
        path = release.api.path(f"{one['apiVersion']}/{one['kind']}", release.namespace, one["metadata"]["name"])
        release.api.request("PATCH", path, one, query=query, content_type="application/apply-patch+yaml")
    for owner, template in pod_specs(objects):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], "name": owner}}
        spec = {**template["spec"], "serviceAccountName": "default"}
        spec.pop("priorityClassName", None)  # this cluster has not got it
        volumes = [*spec["volumes"], *({"name": name, "emptyDir": {}} for name in _claimed(spec))]
        body = {**pod, "spec": {**spec, "volumes": volumes}}
        query = {"fieldValidation": "Strict", "dryRun": "All"}
        release.api.request("POST", release.api.path("v1/Pod", release.namespace), body, query=query)


def _claimed(spec: Object) -> set[str]:
    """Volumes that a StatefulSet makes claims for."""
    containers = [*spec.get("initContainers", ()), *spec["containers"]]
    mounted = {mount["name"] for one in containers for mount in one.get("volumeMounts", ())}
    return mounted - {volume["name"] for volume in spec["volumes"]}


def test_it_is_installed_and_its_pods_are_admitted(release: Release) -> None:
    said = release.install(objectStore__enabled=True, objectStore__persistence__enabled=False).stdout
    assert "kubectl -n " + release.namespace in said

    def pods() -> set[str]:
        found = release.api.list("v1/Pod", release.namespace)
        return {one["metadata"]["labels"]["app.kubernetes.io/component"] for one in found}

    wait_for(lambda: pods() == {"controller", "inference", "store"}, what="all pods are there")


def test_the_controllers_account_has_its_rights_and_no_other(release: Release) -> None:
    release.install()
    control_plane, namespace = release.control_plane, release.namespace
    for group, resource, verbs in RIGHTS + INFERENCE_RIGHTS:
        for verb in verbs:
            control_plane.wait_for_right(namespace, "refrain-controller", verb, resource, group)
    account = control_plane.service_account(namespace, "refrain-controller")
    for kind in ("v1/Secret", "v1/ConfigMap", "apps/v1/ReplicaSet"):
        with pytest.raises(ApiError, match="403"):
            account.list(kind, namespace)
    with pytest.raises(ApiError, match="403"):
        account.list("v1/Pod", "default")


def test_the_schedules_account_may_create_cycles_and_nothing_else(release: Release) -> None:
    release.install()
    control_plane, namespace = release.control_plane, release.namespace
    control_plane.wait_for_right(namespace, "refrain-schedule", "create", "retraincycles", "refrain.dev")
    account = control_plane.service_account(namespace, "refrain-schedule")
    for action in (
        lambda: account.list("refrain.dev/v1alpha1/RetrainCycle", namespace),
        lambda: account.delete("refrain.dev/v1alpha1/RetrainCycle", "w1", namespace),
        lambda: account.list("v1/Secret", namespace),
        lambda: account.list("v1/Pod", namespace),
    ):
        with pytest.raises(ApiError, match="403"):
            action()
    template = release.api.get("v1/ConfigMap", "refrain-schedule", namespace)["data"]["template.yaml"]
    cycle = yaml.safe_load(template)
    assert account.create(cycle, namespace)["spec"]["archive"] == "mail"


def test_the_stages_accounts_may_do_nothing(release: Release) -> None:
    release.install()
    for name in ("refrain-stages", "refrain-inference"):
        account = release.control_plane.service_account(release.namespace, name)
        for kind in ("v1/Pod", "v1/Secret", "refrain.dev/v1alpha1/RetrainCycle"):
            with pytest.raises(ApiError, match="403"):
                account.list(kind, release.namespace)


def test_who_may_view_a_namespace_sees_its_cycles(release: Release) -> None:
    release.install()
    subjects = [{"kind": "ServiceAccount", "name": "default", "namespace": release.namespace}]
    for role in ("view", "edit"):
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
        kind = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding"}
        release.api.create(
            {**kind, "metadata": {"name": role}, "roleRef": reference, "subjects": subjects}, release.namespace
        )
        verb = {"view": "watch", "edit": "create"}[role]
        release.control_plane.wait_for_right(release.namespace, "default", verb, "retraincycles", "refrain.dev")


def test_a_promotion_outlives_upgrade_and_rollback(release: Release) -> None:
    release.install()
    release.promote("archives/mail/adapters/w1@" + "a" * 64)
    release.install(image__tag="0.2.0", inference__extraEnv=[{"name": "A", "value": "1"}])
    assert release.adapter() == "archives/mail/adapters/w1@" + "a" * 64
    release.promote("archives/mail/adapters/w2@" + "b" * 64)
    release.helm("rollback", "refrain", "1")
    assert release.adapter() == "archives/mail/adapters/w2@" + "b" * 64
    container = release.api.get(DEPLOYMENT, "refrain-inference", release.namespace)["spec"]["template"]["spec"][
        "containers"
    ][0]
    assert container["image"].endswith(":0.1.0")
    assert "A" not in {one["name"] for one in container["env"]}


def test_a_person_brings_an_older_adapter_back(release: Release) -> None:
    """`kubectl rollout undo` does, for a while; the command of docs/upgrade.md takes the annotation away for good."""
    release.install()
    for adapter in ("archives/mail/adapters/w1@" + "a" * 64, "archives/mail/adapters/w2@" + "b" * 64):
        release.promote(adapter)
        release.wait_for_replica_set(adapter)
    release.shell("kubectl -n mail rollout undo deployment/refrain-inference")
    assert release.adapter() == "archives/mail/adapters/w1@" + "a" * 64

    (command,) = re.findall(
        r"^(kubectl -n mail patch deployment refrain-inference .*?)\n```", PAGE.read_text(), re.M | re.S
    )
    release.shell(command)
    assert release.adapter() is None
    release.install(image__tag="0.2.0")
    assert release.adapter() is None


def test_an_upgrade_without_changes_changes_nothing(release: Release) -> None:
    """Secrets that are made once stay, and no pod is rolled."""
    values = {"inference__mode": "Swap", "objectStore__enabled": True, "objectStore__persistence__enabled": False}
    release.install(**values)

    def state() -> dict[tuple[str, str], Any]:
        objects = [
            ("v1/Secret", "refrain-swap"),
            ("v1/Secret", "refrain-store"),
            ("apps/v1/StatefulSet", "refrain-store"),
        ]
        objects += [(DEPLOYMENT, "refrain-inference"), (DEPLOYMENT, "refrain-controller")]
        found = {one: release.api.get(*one, release.namespace) for one in objects}
        return {one: thing.get("spec") or thing["data"] for one, thing in found.items()}

    before = state()
    release.install(**values)
    assert state() == before


def test_the_object_store_s_volume_is_changed_as_the_page_says(release: Release) -> None:
    """The claim's own growth, which wants a StorageClass that allows it, is left out: there is no volume here."""
    release.install(objectStore__enabled=True)
    wait_for(lambda: release.api.list("v1/Pod", release.namespace, labels=_STORE), what="the store's pod is there")
    kept = _store_objects(release)
    larger = {**NEEDED, "objectStore.enabled": True, "objectStore.persistence.size": "50Gi"}
    refused = release.helm("upgrade", "refrain", CHART, *sets(larger), check=False)
    assert refused.returncode != 0
    (words,) = re.findall(r"words are `(.*?) … (.*?)`", PAGE.read_text())
    assert all(part in refused.stderr for part in words), refused.stderr
    (command,) = re.findall(r"^(kubectl -n mail delete statefulset .*)$", PAGE.read_text(), re.M)
    release.shell(command)
    release.helm("upgrade", "refrain", CHART, *sets(larger))
    store = release.api.get("apps/v1/StatefulSet", "refrain-store", release.namespace)
    (claim,) = store["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "50Gi"

    def is_taken_over() -> bool:
        (pod,) = release.api.list("v1/Pod", release.namespace, labels=_STORE)
        return [one["uid"] for one in pod["metadata"].get("ownerReferences", ())] == [store["metadata"]["uid"]]

    wait_for(is_taken_over, what="the new StatefulSet has the pod")
    assert _store_objects(release) == kept


_STORE = "app.kubernetes.io/component=store"


def _store_objects(release: Release) -> dict[str, str]:
    """The store's pod and claim, by name, each with its own identity."""
    found = [
        one for kind in ("v1/Pod", "v1/PersistentVolumeClaim") for one in release.api.list(kind, release.namespace)
    ]
    return {one["metadata"]["name"]: one["metadata"]["uid"] for one in found if "-store-" in one["metadata"]["name"]}


def test_two_releases_do_not_touch_each_other(release: Release, new_namespace: Callable[..., str]) -> None:
    other = Release(release.control_plane, new_namespace(**RESTRICTED))
    release.install()
    other.install(archive="lists")
    try:
        release.helm("uninstall", "refrain")
        assert other.api.find(DEPLOYMENT, "refrain-controller", other.namespace)
        roles = {one["metadata"]["name"] for one in other.api.list("rbac.authorization.k8s.io/v1/ClusterRole")}
        assert f"refrain:{other.namespace}:refrain:view" in roles
        assert f"refrain:{release.namespace}:refrain:view" not in roles
    finally:
        other.helm("uninstall", "refrain")


def test_uninstalling_leaves_the_cycles(release: Release) -> None:
    """The definition comes with the chart of its own, and stays when either goes."""
    release.install()
    cycle = yaml.safe_load(
        release.api.get("v1/ConfigMap", "refrain-schedule", release.namespace)["data"]["template.yaml"]
    )
    release.api.create(cycle, release.namespace)
    release.helm("uninstall", "refrain")
    assert release.api.find("refrain.dev/v1alpha1/RetrainCycle", "mail", release.namespace)
    assert release.api.find(DEPLOYMENT, "refrain-controller", release.namespace) is None
    left = release.api.list("v1/ConfigMap", release.namespace)
    assert {one["metadata"]["name"] for one in left} <= {"kube-root-ca.crt"}


def test_values_files_are_installed_as_they_are(release: Release) -> None:
    for name in ("cloud", "swap"):
        release.helm(
            "upgrade", "--install", "refrain", CHART, f"--values={CASES / name}.values.yaml", "--dry-run=server"
        )


def test_the_definition_is_kept_and_taken_over(control_plane: ControlPlane, tmp_path: Path) -> None:
    kubeconfig = {"KUBECONFIG": str(control_plane.kubeconfig)}
    name = "retraincycles.refrain.dev"
    kind = "apiextensions.k8s.io/v1/CustomResourceDefinition"
    if control_plane.api.find(kind, name):
        control_plane.api.delete(kind, name)
        wait_for(lambda: control_plane.api.find(kind, name) is None, what="the definition is gone")
    helm("install", "refrain-crds", CRDS, "--namespace=default", environment=kubeconfig)
    helm("uninstall", "refrain-crds", "--namespace=default", environment=kubeconfig)
    assert control_plane.api.find(kind, name)
    helm("install", "refrain-crds", CRDS, "--namespace=default", environment=kubeconfig)
    helm("uninstall", "refrain-crds", "--namespace=default", environment=kubeconfig)
