"""The image that holds a pod's network: one program that waits, and nothing else, as an OCI archive."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path

IMAGE = "localhost/pause:1"
_OCI = "application/vnd.oci.image"
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_archive(program: Path, archive: Path) -> None:
    """An archive with the program as its only file and entry point."""
    layer = _tar({"pause": program.read_bytes()}, mode=0o755)
    blobs: dict[str, bytes] = {}

    def kept(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": f"{_OCI}.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    system = {"architecture": _MACHINES.get(platform.machine(), platform.machine()), "os": "linux"}
    layers = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}
    config = kept(_json({**system, "config": {"Entrypoint": ["/pause"]}, "rootfs": layers}), "config.v1+json")
    manifest = {"schemaVersion": 2, "mediaType": f"{_OCI}.manifest.v1+json", "config": config}
    manifest["layers"] = [kept(gzip.compress(layer, mtime=0), "layer.v1.tar+gzip")]
    named = kept(_json(manifest), "manifest.v1+json")
    named["annotations"] = {"org.opencontainers.image.ref.name": IMAGE}
    index = _json({"schemaVersion": 2, "manifests": [named]})
    archive.write_bytes(_tar({"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": index, **blobs}))


def _json(document: object) -> bytes:
    return json.dumps(document).encode()


def _tar(files: dict[str, bytes], mode: int = 0o644) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
    return output.getvalue()
