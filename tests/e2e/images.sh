#!/bin/sh
# The images of `make e2e`, as archives in a folder: from the Dockerfiles, on base images that are made here.
#   images.sh FOLDER    needs root, buildah and debootstrap; layers that have not changed are taken again
set -eu
here=$(dirname "$0")
builder=localhost/refrain-test-builder
base=localhost/refrain-test-base
cache=${REFRAIN_CACHE:-$HOME/.cache/refrain}
sh "$here/base_image.sh" "$builder" "$base"
uv=${UV_CACHE_DIR:-$HOME/.cache/uv}
mkdir -p "$uv"
python3 "$here/../../images/build.py" --engine buildah --archives "$1" --uv-cache "$uv" \
    --builder "$builder" --base "$base" \
    --minio-binary "$cache/bin/minio" --minio-builder "$builder" --minio-base "$base"
