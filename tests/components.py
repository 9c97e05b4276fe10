"""What tests need that a machine may lack: servers, corpora."""

from __future__ import annotations

import os

import pytest


def require(condition: object, reason: str) -> None:
    """Skip the calling test or fixture, saying why, unless the condition holds.

    With REFRAIN_REQUIRE_ALL=1, as in continuous integration, it fails instead.
    """
    if condition:
        return
    if os.environ.get("REFRAIN_REQUIRE_ALL") == "1":
        pytest.fail(f"missing: {reason}", pytrace=False)
    pytest.skip(reason)
