"""Whether NetworkPolicies let a connection through, by the rules of the Kubernetes API. Pure.

A connection is allowed where its source's policies let it out and its destination's let it in; a pod that no policy
of a direction selects lets everything through in that direction. Traffic between a pod and its own node is always
allowed, which is how the kubelet's probes get in.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cluster.api import Object


@dataclass(frozen=True)
class Pod:
    """A pod of the cluster."""

    labels: Mapping[str, str]
    namespace: str = "mail"
    namespace_labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Address:
    """A place outside the cluster's pods: a node, the API server, the internet."""

    ip: str
    is_own_node: bool = False
    """The node of the pod at the other end."""


Place = Pod | Address


def allows(policies: Iterable[Object], source: Place, to: Place, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection gets through."""
    if any(isinstance(one, Address) and one.is_own_node for one in (source, to)):
        return True
    known = list(policies)
    goes_out = _lets(known, source, to, port, protocol, "Egress")
    return goes_out and _lets(known, to, source, port, protocol, "Ingress")


def _lets(policies: list[Object], pod: Place, peer: Place, port: int, protocol: str, direction: str) -> bool:
    if isinstance(pod, Address):
        return True
    chosen = [one for one in policies if _selects(one, pod, direction)]
    rules = [rule for one in chosen for rule in one["spec"].get(direction.lower()) or []]
    side = "from" if direction == "Ingress" else "to"
    return not chosen or any(_matches(rule, side, pod, peer, port, protocol) for rule in rules)


def _selects(policy: Object, pod: Pod, direction: str) -> bool:
    spec = policy["spec"]
    default = ["Ingress", *(["Egress"] if "egress" in spec else [])]
    is_here = policy["metadata"]["namespace"] == pod.namespace
    return is_here and direction in spec.get("policyTypes", default) and _has(pod.labels, spec["podSelector"])


def _matches(rule: Object, side: str, pod: Pod, peer: Place, port: int, protocol: str) -> bool:
    ports, peers = rule.get("ports"), rule.get(side)
    fits_port = not ports or any(_is_port(one, port, protocol) for one in ports)
    return fits_port and (not peers or any(_is_peer(one, pod, peer) for one in peers))


def _is_port(said: Object, port: int, protocol: str) -> bool:
    first = said.get("port", 0)
    last = said.get("endPort", first or 65535)
    return said.get("protocol", "TCP") == protocol and first <= port <= last


def _is_peer(said: Object, pod: Pod, peer: Place) -> bool:
    if isinstance(peer, Address):
        block = said.get("ipBlock")
        return block is not None and _is_inside(peer.ip, block)
    if "ipBlock" in said:
        return False
    in_namespace = (
        _has(peer.namespace_labels, said["namespaceSelector"])
        if "namespaceSelector" in said
        else peer.namespace == pod.namespace
    )
    return in_namespace and ("podSelector" not in said or _has(peer.labels, said["podSelector"]))


def _is_inside(ip: str, block: Object) -> bool:
    address = ipaddress.ip_address(ip)
    outside = any(address in ipaddress.ip_network(one) for one in block.get("except", ()))
    return address in ipaddress.ip_network(block["cidr"]) and not outside


def _has(labels: Mapping[str, str], selector: Object) -> bool:
    wanted = selector.get("matchLabels") or {}
    expressions = selector.get("matchExpressions") or []
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        _meets(labels, one) for one in expressions
    )


def _meets(labels: Mapping[str, str], expression: Object) -> bool:
    key, values = expression["key"], expression.get("values", [])
    return {
        "In": labels.get(key) in values,
        "NotIn": labels.get(key) not in values,
        "Exists": key in labels,
        "DoesNotExist": key not in labels,
    }[str(expression["operator"])]
