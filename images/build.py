"""Builds the images, with docker, podman or buildah, whichever is there: `make images`.

    python3 images/build.py                                         all three, under localhost/
    python3 images/build.py --registry registry.example/team --push
    python3 images/build.py controller --archives build/images      for clusters without a registry

Needs no package. Prints each image with its size; exits 1 where a command fails, 2 where nothing builds images.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ("controller", "jobs", "minio")
ENGINES = ("docker", "podman", "buildah")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
INDEXES = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_TORCH_BACKEND", "GOPROXY")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Build Refrain's images.")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=f"which of {', '.join(IMAGES)}; all by default")
    parser.add_argument("--engine", choices=ENGINES, help="the first of these that works by default")
    parser.add_argument("--registry", default="localhost", help="registry and path before the names")
    parser.add_argument("--tag", help="Refrain's version by default")
    parser.add_argument("--push", action="store_true", help="push what was built")
    parser.add_argument("--archives", type=Path, metavar="FOLDER", help="write NAME.tar there, uncompressed")
    parser.add_argument("--builder", help="image of Python images' build stages, in place of python:3.11-slim-bookworm")
    parser.add_argument("--base", help="what they stand on, in place of distroless/python3-debian12")
    parser.add_argument("--python", help="the interpreter in --base, in place of /usr/bin/python3.11")
    parser.add_argument("--minio-builder", help="image of MinIO's build stage, in place of golang")
    parser.add_argument("--minio-base", help="what it stands on, in place of distroless/static-debian12")
    parser.add_argument("--minio-binary", type=Path, help="a minio for Linux that is there already")
    parser.add_argument("--ca", type=Path, default=os.environ.get("SSL_CERT_FILE"), help="certificates of the indexes")
    parser.add_argument("--uv-cache", type=Path, help="uv's cache of this machine (podman and buildah)")
    parser.add_argument(
        "--build-arg", action="append", default=[], metavar="NAME=VALUE", help="any other, to each image"
    )
    parser.add_argument("--one-layer", action="store_true", help="buildah: nothing cached, one layer; quicker once")
    parser.add_argument("--dry-run", action="store_true", help="print the commands alone")
    chosen = parser.parse_args()
    if unknown := set(chosen.images) - set(IMAGES):
        parser.error(f"no such image: {', '.join(sorted(unknown))}; there are {', '.join(IMAGES)}")
    return chosen


def engine(wanted: str | None) -> str:
    """The command that builds: a client without its daemon does not."""
    for name in (wanted,) if wanted else ENGINES:
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True, check=False).returncode == 0:
            return name
    sys.exit(f"make images: none of {wanted or ', '.join(ENGINES)} works here (`docker info` says why); install one")


def version() -> str:
    """Refrain's."""
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found, "pyproject.toml has no version"
    return found[1]


def revision() -> str:
    """The commit that is checked out."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def build_arguments(image: str, chosen: argparse.Namespace) -> dict[str, str]:
    """The Dockerfile's ARGs, as far as they are known."""
    if image == "minio":
        bases = {"BUILDER": chosen.minio_builder, "BASE": chosen.minio_base}
    else:
        bases = {"BUILDER": chosen.builder, "BASE": chosen.base, "PYTHON": chosen.python, "VERSION": version()}
    passed = {name: os.environ.get(name) or os.environ.get(name.lower()) for name in PROXIES + INDEXES}
    further = dict(line.split("=", 1) for line in chosen.build_arg)
    return {name: value for name, value in {**passed, **bases, "REVISION": revision(), **further}.items() if value}


def build_command(program: str, image: str, name: str, context: Path, chosen: argparse.Namespace) -> list[str]:
    """What builds one image."""
    command = [program, "build", "--file", f"images/{image}/Dockerfile", "--tag", name]
    if program != "docker":
        command += ["--format", "oci", f"--layers={str(not chosen.one_layer).lower()}"]
    if program == "buildah" and os.geteuid() == 0:
        command += ["--isolation", "chroot"]  # works within a container, too
    if chosen.uv_cache and program != "docker":
        command += ["--volume", f"{chosen.uv_cache.resolve()}:/var/cache/uv"]
    if chosen.ca:
        command += ["--secret", f"id=ca,src={chosen.ca}"]
    for argument, value in build_arguments(image, chosen).items():
        command += ["--build-arg", f"{argument}={value}"]
    return [*command, str(context)]


def archive_command(program: str, name: str, file: Path) -> list[str]:
    """What writes an archive that `ctr image import`, `docker load` and `podman load` read."""
    if program == "docker":
        return ["docker", "save", "--output", str(file), name]
    if program == "podman":
        return ["podman", "save", "--format", "oci-archive", "--uncompressed", "--output", str(file), name]
    return ["buildah", "push", "--quiet", name, f"docker-archive:{file}:{name}"]  # the one that is not compressed


def size_of(program: str, name: str) -> int:
    """Bytes of an image's files, uncompressed."""
    if program == "buildah":
        return _bytes(json.loads(output_of(["buildah", "images", "--json", name]))[0]["size"])
    return int(output_of([program, "image", "inspect", "--format", "{{.Size}}", name]))


def _bytes(size: str) -> int:
    """Of `239 MB`, as buildah has it."""
    number, unit = size.split()
    return round(float(number) * 1000 ** ("B", "KB", "MB", "GB").index(unit.upper()))


def output_of(command: list[str]) -> str:
    """What a command prints, which ends well."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def minio_context(chosen: argparse.Namespace) -> Path:
    """The folder that MinIO's image is made from, with the binary where there is one."""
    if not chosen.minio_binary:
        return Path("images/minio")
    context = ROOT / "build" / "minio-context"
    context.mkdir(parents=True, exist_ok=True)
    shutil.copy(chosen.minio_binary, context / "minio")
    return context


def main() -> None:
    """Build, and what else was asked for."""
    chosen = arguments()
    program = engine(chosen.engine)

    def run(command: list[str]) -> None:
        print("+", shlex.join(command), flush=True)
        if not chosen.dry_run and (code := subprocess.run(command, cwd=ROOT, check=False).returncode):
            sys.exit(f"make images: `{shlex.join(command[:2])}` ended with code {code}")

    for image in chosen.images or IMAGES:
        name = f"{chosen.registry.rstrip('/')}/refrain-{image}:{chosen.tag or version()}"
        context = minio_context(chosen) if image == "minio" else Path()
        run(build_command(program, image, name, context, chosen))
        if chosen.push:
            run([program, "push", name])
        if chosen.archives:
            file = chosen.archives.resolve() / f"refrain-{image}.tar"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
            run(archive_command(program, name, file))
        if not chosen.dry_run:
            print(f"{name}: {size_of(program, name) / 1e6:,.0f} MB", flush=True)


if __name__ == "__main__":
    main()
