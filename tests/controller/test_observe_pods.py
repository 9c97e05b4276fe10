"""Which pods are those of the inference Deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from controller.observe import Memory, _inference

if TYPE_CHECKING:
    from controller_world import World


class Listing:
    """Of the API what an observation needs: one Deployment, and pods by selector, which is noted."""

    def __init__(self, selector: Any, pods: list[Any]) -> None:
        template: Any = {"metadata": {"annotations": {}}}
        self.deployment = {"metadata": {"name": "serve"}, "spec": {"selector": selector, "template": template}}
        self.pods = pods
        self.asked: list[str] = []

    def get(self, kind: str, name: str) -> Any:
        return self.deployment

    def list(self, kind: str, **selectors: str) -> list[Any]:
        self.asked.append(selectors["labelSelector"])
        return self.pods


def pod(name: str, **changes: Any) -> Any:
    owner = {"kind": "ReplicaSet", "name": "serve-5d4f", "controller": True, "uid": "r"}
    return {"metadata": {"name": name, "labels": {"pod-template-hash": "5d4f"}, "ownerReferences": [owner]} | changes}


class TestSelecting:
    def inference(self, world: World, api: Listing) -> Any:
        world.deploy()
        return _inference(api, "workshop", world.settings, Memory())  # type: ignore[arg-type]

    def test_labels_and_expressions(self, world: World) -> None:
        expressions = [
            {"key": "tier", "operator": "In", "values": ["a", "b"]},
            {"key": "zone", "operator": "NotIn", "values": ["c"]},
            {"key": "live", "operator": "Exists"},
            {"key": "dead", "operator": "DoesNotExist"},
        ]
        api = Listing({"matchLabels": {"app": "serve"}, "matchExpressions": expressions}, [pod("one")])
        assert [one["metadata"]["name"] for one in self.inference(world, api).pods] == ["one"]
        assert api.asked == ["app=serve,tier in (a,b),zone notin (c),live,!dead"]

    def test_an_empty_one_is_not_all_pods(self, world: World) -> None:
        api = Listing({}, [pod("one")])
        assert (self.inference(world, api).pods, api.asked) == ((), [])

    def test_pods_of_others_with_the_same_labels(self, world: World) -> None:
        job = {"kind": "Job", "name": "w1-train-0-0", "controller": True, "uid": "j"}
        other = {"kind": "ReplicaSet", "name": "canary-5d4f", "controller": True, "uid": "c"}
        pods = [pod("stage", ownerReferences=[job]), pod("canary", ownerReferences=[other]), pod("bare", labels={})]
        assert self.inference(world, Listing({"matchLabels": {"app": "serve"}}, pods)).pods == ()
