# Refrain. `make` alone lists what can be made.
SHELL := /bin/sh
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TESTS ?= tests
PYTEST ?= -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: help setup test test-quick test-servers check bench bench-gpu demo images e2e e2e-servers node experiments requirements generate clean

help:  ## list what can be made
	@awk -F ':.*## ' '/^[a-z0-9 -]+:.*## / {printf "  make %-21s %s\n", $$1, $$2}' Makefile

setup: $(READY)  ## make .venv with the refrain command

# Any python3 from 3.11 on; uv lives inside, pinned as everything else is.
$(BIN)/uv:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	[ -n "$$found" ] || { echo "make setup: needs Python 3.11 or newer (PYTHON=/path/to/python3 names one)" >&2; exit 1; }; \
	$$found -m venv $(VENV) || { echo "make setup: Python's venv is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements.txt)"

$(READY): pyproject.toml requirements.txt | $(BIN)/uv
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --editable '.[test,train,serve,tensorboard,demo,controller]' --constraint requirements.txt
	@touch $@

test: $(READY)  ## run the tests; what this machine lacks is skipped, with its reason
	$(BIN)/pytest $(PYTEST) $(TESTS)

test-quick: $(READY)  ## those tests that take less than ten seconds each
	$(BIN)/pytest $(PYTEST) -m 'not slow and not e2e' $(TESTS)

test-servers: $(READY)  ## bring the servers that tests talk to, where this machine lacks them
	VENV=$(VENV) sh tests/servers/install.sh

e2e-servers: $(READY)  ## bring what makes this machine a Kubernetes node, for `make e2e`
	VENV=$(VENV) sh tests/servers/install.sh node

check: $(READY)  ## lint, types, import direction, generated files, nothing of this machine
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_imports.py
	$(BIN)/python tests/tools/generate.py --check
	$(BIN)/python tests/tools/check_tracked_files.py
	$(BIN)/python tests/tools/check_requirements.py

bench: $(READY)  ## measure, side by side with others, into benchmarks/results.md; SIZE=million takes longer
	$(BIN)/python benchmarks/run.py $(ROWS) $(if $(filter million,$(SIZE)),--million)

bench-gpu: $(READY)  ## train an 8B model's adapter on a GPU, side by side with others, into benchmarks/results-gpu.md
	$(BIN)/python benchmarks/training/run.py --output benchmarks/results-gpu.md

demo: $(READY)  ## three weekly cycles on mail that is made up, in minutes; DEMO_DIR=build/demo
	$(BIN)/python examples/demo/demo.py $(or $(DEMO_DIR),build/demo) $(DEMO)

images:  ## build the images, with docker, podman or buildah; IMAGES='--registry registry.example/team --push'
	python3 images/build.py $(IMAGES)

experiments: $(READY)  ## planted secrets, and weekly cycles over real mail beside the project, into benchmarks/experiments.md
	$(BIN)/python benchmarks/experiments/canaries.py build/demo build/experiments/canaries
	$(BIN)/python benchmarks/experiments/linux_raid.py ../shared/corpora/linux-raid-2019H2 build/experiments/linux-raid

node: e2e-servers  ## a shell on a Kubernetes node of its own, which ends with it; CMD='kubectl get pods' in place of a shell
	PYTHONPATH=tests $(BIN)/python -m node $(addprefix --load ,$(wildcard build/images/*.tar)) run $(or $(CMD),bash)

# On this machine's own node, with images built here; or on the cluster that KUBECONFIG names, which pulls them from REGISTRY.
e2e: e2e-servers  ## the whole product on a real node, with real images; needs root on Linux, or KUBECONFIG and REGISTRY
ifdef KUBECONFIG
	$(BIN)/pytest -n0 -m e2e $(E2E) tests/e2e
else
	sh tests/e2e/images.sh build/images
	$(BIN)/pytest -n0 -m e2e $(E2E) tests/node tests/images
	PYTHONPATH=tests $(BIN)/python -m node $(addprefix --load build/images/refrain-,controller.tar jobs.tar minio.tar) run \
	  $(BIN)/pytest -n0 -m e2e $(E2E) tests/e2e
endif

requirements: | $(BIN)/uv  ## resolve pyproject.toml into requirements.txt again
	UV_CUSTOM_COMPILE_COMMAND='make requirements' $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	  --no-emit-index-url --no-annotate --all-extras $(UPGRADE) pyproject.toml --output-file requirements.txt

generate: $(READY)  ## write the generated files again
	$(BIN)/python tests/tools/generate.py

clean:  ## remove what make made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
