"""The rendered NetworkPolicies against the table of who talks to whom. No network here enforces them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helm import NEEDED, case, of_kind, pod_specs, rendered, sets
from network_policies import Address, Place, Pod, allows

from controller.objects import MANAGED_BY, MANAGER, STAGE

PAGE = Path(__file__).parents[2] / "docs" / "install.md"
API_SERVER = Address("203.0.113.1")
INTERNET = Address("198.51.100.7")
POD_IDENTITY, INSTANCE_METADATA = Address("169.254.170.23"), Address("169.254.169.254")
NODE = Address("203.0.113.9", is_own_node=True)
STRANGER = Pod({"app": "shell"})
DNS = Pod({"k8s-app": "kube-dns"}, "kube-system", {"kubernetes.io/metadata.name": "kube-system"})
PROMETHEUS = Pod({"app": "prometheus"}, "monitoring", {"kubernetes.io/metadata.name": "monitoring"})
CLIENT = Pod({"app": "chat"}, "office", {"mail": "yes"})
OTHER_RELEASE = Pod({MANAGED_BY: MANAGER, STAGE: "train"}, "lists", {})

# who, whom, port: of every release with these parts.
ALLOWED = [
    ("controller", "api", 443),
    ("controller", "api", 6443),
    ("controller", "dns", 53),
    ("controller", "train", 9400),
    ("controller", "inference", 8000),
    ("node", "controller", 8080),
    ("node", "inference", 8000),
    ("node", "store", 9000),
    ("prometheus", "controller", 9090),
    ("prometheus", "train", 9400),
    ("prometheus", "inference", 8000),
    ("parse", "dns", 53),
    ("parse", "internet", 993),
    ("parse", "internet", 143),
    ("parse", "store", 9000),
    ("train", "store", 9000),
    ("train", "internet", 443),
    ("train", "train", 29500),
    ("train", "train", 41234),
    ("select", "store", 9000),
    ("inference", "dns", 53),
    ("inference", "store", 9000),
    ("inference", "internet", 443),
    ("client", "inference", 8000),
    ("schedule", "dns", 53),
    ("schedule", "api", 443),
]
REFUSED = [
    ("controller", "internet", 80),
    ("controller", "store", 9000),
    ("controller", "inference", 22),
    ("stranger", "controller", 8080),
    ("stranger", "train", 29500),
    ("stranger", "train", 22),
    ("stranger", "parse", 22),
    ("stranger", "store", 9000),
    ("stranger", "schedule", 22),
    ("other release", "train", 29500),
    ("train", "internet", 993),
    ("train", "internet", 25),
    ("train", "stranger", 8080),
    ("train", "inference", 8000),
    ("parse", "train", 29500),
    ("inference", "train", 9400),
    ("inference", "api", 6443),
    ("schedule", "internet", 80),
    ("schedule", "store", 9000),
    ("store", "internet", 443),
]
# Only where clients and scrapers are named.
REFUSED_TO_OTHERS = [
    ("stranger", "inference", 8000),
    ("stranger", "controller", 9090),
    ("stranger", "train", 9400),
    ("client", "controller", 9090),
    ("client", "train", 9400),
]


def _places(objects: list) -> dict[str, Place]:
    """By the names of the tables; what a release lacks is left out."""
    pods = {owner.rpartition("-")[2]: Pod(spec["metadata"]["labels"]) for owner, spec in pod_specs(objects)}
    stages = {name: Pod({MANAGED_BY: MANAGER, STAGE: name}) for name in ("parse", "train", "select")}
    others = {
        "api": API_SERVER,
        "internet": INTERNET,
        "node": NODE,
        "dns": DNS,
        "prometheus": PROMETHEUS,
        "client": CLIENT,
        "stranger": STRANGER,
        "other release": OTHER_RELEASE,
    }
    return pods | stages | others


@pytest.mark.parametrize("name", ["cloud", "swap", "controller", "everything"])
def test_the_table(name: str) -> None:
    all_of_it = sets(NEEDED | {"networkPolicy.enabled": True, "objectStore.enabled": True})
    objects = rendered(*all_of_it) if name == "everything" else case(name)
    policies, places = list(of_kind(objects, "NetworkPolicy")), _places(objects)
    expected = dict.fromkeys(ALLOWED, True) | dict.fromkeys(REFUSED, False)
    if name == "cloud":
        expected |= dict.fromkeys(REFUSED_TO_OTHERS, False)
    wrong = [
        (who, whom, port)
        for (who, whom, port), is_allowed in expected.items()
        if {who, whom} <= places.keys() and allows(policies, places[who], places[whom], port) is not is_allowed
    ]
    assert not wrong


def test_dns_over_udp() -> None:
    objects = case("cloud")
    policies, places = list(of_kind(objects, "NetworkPolicy")), _places(objects)
    for who in ("controller", "parse", "train", "inference", "schedule"):
        assert allows(policies, places[who], DNS, 53, "UDP")
        assert not allows(policies, places[who], DNS, 123, "UDP")


def test_every_pod_of_a_release_is_under_a_policy() -> None:
    """One that none selects may be talked to by everybody, and may talk to everybody."""
    for name in ("cloud", "swap", "controller"):
        objects = case(name)
        policies, places = list(of_kind(objects, "NetworkPolicy")), _places(objects)
        for who, whom in places.items():
            if isinstance(whom, Pod) and (whom.namespace, who) != ("mail", "stranger") and whom.namespace == "mail":
                assert not allows(policies, STRANGER, whom, 22), (name, who)
                assert not allows(policies, whom, INTERNET, 25), (name, who)


def test_ports_of_store_and_proxy_follow_their_urls() -> None:
    values = {
        "networkPolicy.enabled": True,
        "store.endpoint": "https://s3.example",
        "proxy.https": "http://proxy.example:3128",
    }
    for changes, port, is_allowed in (
        ({}, 3128, True),
        ({}, 9000, False),
        ({"store.endpoint": "http://minio:9000"}, 9000, True),
        ({"store.endpoint": "http://minio"}, 80, True),
        ({"networkPolicy.egressPorts": []}, 443, True),
        ({"networkPolicy.egressPorts": [], "store.endpoint": "http://minio"}, 443, False),
        ({"networkPolicy.extraEgress": [{"ports": [{"port": 5000}]}]}, 5000, True),
    ):
        objects = rendered(*sets(NEEDED | values | changes))
        policies, places = list(of_kind(objects, "NetworkPolicy")), _places(objects)
        for who in ("train", "inference"):
            assert allows(policies, places[who], INTERNET, port) is is_allowed, (who, changes)


def test_identity_is_asked_for_where_the_page_s_values_open_it(tmp_path: Path) -> None:
    (text,) = (one for one in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL) if "extraEgress" in one)
    (tmp_path / "values.yaml").write_text(text)
    opened = rendered(*sets(NEEDED), f"--values={tmp_path / 'values.yaml'}")
    shut = rendered(*sets(NEEDED | {"networkPolicy.enabled": True}))
    for objects, is_allowed in ((shut, False), (opened, True)):
        policies, places = list(of_kind(objects, "NetworkPolicy")), _places(objects)
        for agent in (POD_IDENTITY, INSTANCE_METADATA):
            for who in ("parse", "train", "select", "inference"):
                assert allows(policies, places[who], agent, 80) is is_allowed, (who, agent)
            for who in ("controller", "schedule"):
                assert not allows(policies, places[who], agent, 80), (who, agent)
        assert not allows(policies, places["train"], INTERNET, 80)


def test_no_ports_are_not_all_ports() -> None:
    """In a NetworkPolicy an empty list of ports means every port."""
    empty = {f"networkPolicy.{name}": [] for name in ("imapPorts", "egressPorts", "dnsPorts", "apiServerPorts")}
    objects = rendered(*sets(NEEDED | empty | {"networkPolicy.enabled": True}))
    policies, places = list(of_kind(objects, "NetworkPolicy")), _places(objects)
    for who in ("parse", "train", "controller", "inference", "schedule"):
        assert not allows(policies, places[who], INTERNET, 443), who


# ---- the judge itself

_OF_B = {"namespaceSelector": {"matchLabels": {"team": "b"}}, "podSelector": {"matchLabels": {"app": "b"}}}
_POLICY = {
    "metadata": {"namespace": "mail"},
    "spec": {
        "podSelector": {"matchLabels": {"app": "a"}},
        "policyTypes": ["Ingress"],
        "ingress": [
            {"from": [{"ipBlock": {"cidr": "198.51.100.0/24", "except": ["198.51.100.128/25"]}}]},
            {"from": [_OF_B], "ports": [{"port": 8000, "endPort": 8010}]},
        ],
    },
}


@pytest.mark.parametrize(
    ("source", "port", "is_allowed"),
    [
        (Address("198.51.100.7"), 1, True),
        (Address("198.51.100.200"), 1, False),
        (Pod({"app": "b"}, "other", {"team": "b"}), 8000, True),
        (Pod({"app": "b"}, "other", {"team": "b"}), 8010, True),
        (Pod({"app": "b"}, "other", {"team": "b"}), 8011, False),
        (Pod({"app": "c"}, "other", {"team": "b"}), 8000, False),
        (Pod({"app": "b"}, "mail", {}), 8000, False),
        (Address("203.0.113.9", is_own_node=True), 1, True),
    ],
)
def test_the_judge_knows_the_rules(source: Place, port: int, is_allowed: bool) -> None:
    assert allows([_POLICY], source, Pod({"app": "a"}), port) is is_allowed
    assert allows([_POLICY], Pod({"app": "a"}), INTERNET, port)
    assert allows([_POLICY], source, Pod({"app": "z"}), port)
