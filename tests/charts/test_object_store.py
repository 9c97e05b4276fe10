"""The chart's MinIO: its bucket is a folder that an init container makes, which the real server has to take for one."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster import programs
from helm import NEEDED, pod_specs, rendered, sets
from servers.s3 import S3Server, free_port, running

from jobs.contracts.store import StoreOptions, open_store

if TYPE_CHECKING:
    from cluster.api import Object


def _store_pod(**values: object) -> Object:
    objects = rendered(*sets(NEEDED | {"objectStore.enabled": True} | values))
    return next(spec["spec"] for owner, spec in pod_specs(objects) if owner == "refrain-store")


def test_a_bucket_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = _store_pod()
    *_, folder = pod["initContainers"][0]["command"]
    arguments = pod["containers"][0]["args"]
    assert folder == "/data/refrain"
    assert arguments[:2] == ["server", "/data"]
    (tmp_path / "data/refrain").mkdir(parents=True)
    server = S3Server(f"http://127.0.0.1:{free_port()}", "access", secrets.token_urlsafe(24))
    command = [str(programs.binary("minio")), "server", str(tmp_path / "data")]
    command += ["--address", server.endpoint.removeprefix("http://")]
    root = {"MINIO_ROOT_USER": server.access_key, "MINIO_ROOT_PASSWORD": server.secret_key, "MINIO_BROWSER": "off"}
    with running(command, root, f"{server.endpoint}/minio/health/ready", tmp_path / "minio.log"):
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        store = open_store("s3://refrain/mail", StoreOptions.from_environment())  # which tries conditional writes
        store.put("a", b"1")
        assert store.get("a") == b"1"
        assert [one["Name"] for one in server.client().list_buckets()["Buckets"]] == ["refrain"]


@pytest.mark.parametrize(
    ("url", "bucket"), [("s3://mails", "mails"), ("s3://mails/refrain/", "mails"), ("", "refrain")]
)
def test_the_bucket_is_that_of_the_stores_url(url: str, bucket: str) -> None:
    assert _store_pod(**{"store.url": url})["initContainers"][0]["command"][-1] == f"/data/{bucket}"
