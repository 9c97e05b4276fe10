#!/bin/sh
# What the build stages of our images run; nothing of it stays in an image.
#   install.sh environment                 uv, and an empty virtual environment in /opt/refrain
#   install.sh packages ARGUMENTS…         into it, as requirements.txt pins them
#   install.sh code                        this project without dependencies, as a layer in /layers/code
#   install.sh layer NAME                  what is new in /opt/refrain since the last layer, into /layers/NAME
#   install.sh relink FOLDER PYTHON        an environment's interpreter, as the last stage's base has it
# A secret `ca` is a file of certificates that package indexes are checked with.
set -eu
home=/opt/refrain
if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca PIP_CERT=/run/secrets/ca; fi
export UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=$home PATH="/build/uv/bin:$PATH"

environment() {
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target /build/uv \
        "$(grep '^uv==' requirements.txt)"
    uv venv --quiet --python "$(command -v python3)" "$home"
    rm "$home"/bin/activate* "$home"/bin/deactivate* "$home"/bin/pydoc* 2>/dev/null || true
}

packages() { uv pip install --quiet --constraint requirements.txt "$@"; }

code() {
    uv pip install --quiet --python "$(command -v python3)" --prefix /layers/code --no-deps .
    sed -i "1s|.*|#!$home/bin/python|" /layers/code/bin/refrain
    python3 -m compileall -q --invalidation-mode unchecked-hash /layers/code
}

layer() {
    cd "$home"
    mkdir -p "/layers/$1"
    find . ! -type d | sort > /layers/.now
    touch /layers/.before
    comm -13 /layers/.before /layers/.now | tr '\n' '\0' | xargs -0 cp -lP --parents --target-directory="/layers/$1"
    mv /layers/.now /layers/.before
}

relink() {
    ln -sf "$2" "$1/bin/python"
    sed -i "s|^home = .*|home = $(dirname "$2")|" "$1/pyvenv.cfg"
}

"$@"
