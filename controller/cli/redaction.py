"""Taking out of objects and logs what a bug report must not hold. Pure."""

from __future__ import annotations

import re
from typing import Any

from controller.objects import Json

REMOVED = "(removed)"
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|KEY|CREDENTIAL|AUTH", re.IGNORECASE)
_USER_IN_URL = re.compile(rb"(?<=://)[^\s/@\"']{1,512}@")
_SIGNED = re.compile(rb"(?i)((?:X-Amz-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|Signature)=)[^&\s\"']+")
_BEARER = re.compile(rb"(?i)(bearer\s+)[\w.~+/=-]{8,}")
_KEY_ID = re.compile(rb"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bhf_[A-Za-z0-9]{20,}\b")
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def without_secrets(value: Any) -> Any:
    """An object without managed fields, kubectl's copy of it, and values of variables whose names sound secret."""
    if isinstance(value, list):
        return [without_secrets(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "name" in value and isinstance(value.get("value"), str) and _SECRET_NAME.search(str(value["name"])):
        return {**value, "value": REMOVED}
    return {key: without_secrets(one) for key, one in value.items() if key not in ("managedFields", _LAST_APPLIED)}


def masked(data: bytes) -> bytes:
    """Text without credentials in URLs, signatures of signed URLs, bearer tokens, and keys known by their form."""
    data = _USER_IN_URL.sub(_mask, data)
    data = _SIGNED.sub(rb"\1" + REMOVED.encode(), data)
    data = _BEARER.sub(rb"\1" + REMOVED.encode(), data)
    return _KEY_ID.sub(REMOVED.encode(), data)


def _mask(_found: re.Match[bytes]) -> bytes:
    return REMOVED.encode() + b"@"


def document(value: Json | list[Json]) -> bytes:
    """An object as a file of a report."""
    import orjson

    return masked(orjson.dumps(without_secrets(value), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
