#!/bin/sh
# Images to build ours from, on a machine that reaches a Debian mirror and no registry: where the Dockerfiles name
# python:3.11-slim-bookworm and distroless/python3-debian12 by default, these two hold the same packages.
#   base_image.sh [BUILDER [BASE]]    needs root, buildah and debootstrap; what is there already is left alone
set -eu
builder=${1:-localhost/refrain-test-builder}
base=${2:-localhost/refrain-test-base}
suite=bookworm # its python3 is 3.11

# What distroless/python3-debian12 holds: an interpreter and the libraries of its standard library, no shell.
PACKAGES="base-files ca-certificates libbz2-1.0 libc6 libcom-err2 libcrypt1 libdb5.3 libexpat1 libffi8 libgcc-s1
libgomp1 libgssapi-krb5-2 libk5crypto3 libkeyutils1 libkrb5-3 libkrb5support0 liblzma5 libncursesw6 libnsl2
libpython3.11-minimal libpython3.11-stdlib libreadline8 libsqlite3-0 libssl3 libstdc++6 libtinfo6 libtirpc3 libuuid1
media-types netbase python3-minimal python3.11-minimal tzdata zlib1g"

if buildah inspect "$builder" >/dev/null 2>&1 && buildah inspect "$base" >/dev/null 2>&1; then
    echo "$builder and $base: there already"
    exit
fi

containers=
files=$(mktemp)
# shellcheck disable=SC2086
trap 'rm -f "$files"; [ -z "$containers" ] || buildah rm $containers >/dev/null' EXIT

new_root() { # a container with nothing in it, and where its files are
    container=$(buildah from scratch)
    containers="$containers $container"
    root=$(buildah mount "$container")
}

keep() { # image: the container's files become it
    buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    buildah umount "$container" >/dev/null
    buildah commit --quiet "$container" "$1" >/dev/null
}

new_root
debootstrap --variant=minbase --include=binutils,ca-certificates,libgomp1,netbase,python3,python3-pip "$suite" "$root" >&2
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*

# Debian's packages still name /lib, which is a link to /usr/lib by now.
# shellcheck disable=SC2086
chroot "$root" dpkg -L $PACKAGES | grep -vE '^/\.$|^/usr/share/(doc|info|lintian|locale|man|menu|bug)(/|$)' |
    sed -nE 's#^/(bin|sbin|lib|lib64)/#/usr/\1/#; \#^/(bin|sbin|lib|lib64)$#!p' | sort -u > "$files"
printf '%s\n' /etc/ssl/certs/ca-certificates.crt /etc/mime.types >> "$files"
whole=$root
whole_container=$container
new_root
for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$root/$folder"; done
tar --create --directory "$whole" --no-recursion --files-from "$files" --ignore-failed-read 2>/dev/null |
    tar --extract --directory "$root"
printf '%s\n' 'root:x:0:0:root:/root:/sbin/nologin' 'nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin' \
    > "$root/etc/passwd"
printf '%s\n' 'root:x:0:' 'nonroot:x:65532:' > "$root/etc/group"
mkdir -p "$root/home/nonroot" "$root/tmp"
chown 65532:65532 "$root/home/nonroot"
chmod 1777 "$root/tmp"
keep "$base"
container=$whole_container
keep "$builder"
echo "$builder and $base: built"
