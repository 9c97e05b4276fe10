"""The API server's audit log: who did what, in the order in which the answers went out.

All that changes something is in it, and all that service accounts of tests read. What the control plane's own
parts read is not, nor are heartbeats.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WRITES = ("create", "update", "patch", "delete", "deletecollection")

POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "rules": [
        {
            "level": "None",
            "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}],
            "namespaces": ["kube-system", "kube-node-lease"],
        },
        {"level": "Metadata", "verbs": list(WRITES)},
        {"level": "None", "userGroups": ["system:masters", "system:serviceaccounts:kube-system"]},
        {"level": "None", "users": ["system:kube-controller-manager", "system:kube-scheduler"]},
        {"level": "Metadata", "omitStages": ["RequestReceived"]},
    ],
}


@dataclass(frozen=True)
class AuditEvent:
    """One request."""

    id: str
    user: str
    user_agent: str
    verb: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int
    """0 where no answer was begun."""
    time: datetime
    """When the request came in."""
    uri: str
    stage: str
    """`ResponseComplete`; `ResponseStarted` of a watch; `RequestReceived` of a write that was not answered (yet)."""

    @property
    def is_write(self) -> bool:
        return self.verb in WRITES

    @property
    def right(self) -> tuple[str, str, str]:
        """What a Role must allow: verb, `resource` or `resource/subresource`, API group."""
        return self.verb, "/".join(filter(None, [self.resource, self.subresource])), self.group

    def __str__(self) -> str:
        what = "/".join(filter(None, [self.resource, self.subresource]))
        return f"{self.user} {self.verb} {what} {self.namespace}/{self.name} {self.code}"


_STAGES = ("RequestReceived", "ResponseStarted", "ResponseComplete", "Panic")


def read(log: Path, since: int = 0) -> list[AuditEvent]:
    """Every request once, at its furthest stage, from a position in the file on, in the order of that stage."""
    found: dict[str, AuditEvent] = {}
    for event in _parsed(log, since):
        former = found.pop(event.id, None)
        later = former and _STAGES.index(former.stage) > _STAGES.index(event.stage)
        found[event.id] = former if former and later else event
    return list(found.values())


def _parsed(log: Path, since: int) -> Iterator[AuditEvent]:
    with log.open("rb") as file:
        file.seek(since)
        for line in file:
            if line.endswith(b"\n"):  # else it is being written
                yield _event(json.loads(line))


def _event(item: dict[str, Any]) -> AuditEvent:
    target = item.get("objectRef") or {}
    return AuditEvent(
        id=item["auditID"],
        user=item["user"].get("username", ""),
        user_agent=item.get("userAgent", ""),
        verb=item["verb"],
        group=target.get("apiGroup", ""),
        resource=target.get("resource", ""),
        subresource=target.get("subresource", ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=(item.get("responseStatus") or {}).get("code", 0),
        time=datetime.fromisoformat(item["requestReceivedTimestamp"]),
        uri=item["requestURI"],
        stage=item["stage"],
    )
