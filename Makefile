# `make help` lists the targets. ARGS goes to the program that a target runs: make demo ARGS=--json
PYTHON ?= python3
UV ?= $(if $(wildcard $(BIN)/uv),$(BIN)/uv,uv)
ARGS ?=
BIN := .venv/bin
INSTALLED := .venv/.installed
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE ?= leader-elector:$(VERSION)
# What else `docker build` is given: BUILD=--network=host, BUILD=--build-arg=BASE=...
BUILD ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header $(ARGS)
MAKEFLAGS += --no-builtin-rules --no-print-directory

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-fast test-image test-cluster cluster-up cluster-down image lint format bench paper \
  explore simulate chaos fuzz mutants requirements clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

venv: $(INSTALLED) ## the virtual environment .venv, with everything that the other targets need

demo: $(INSTALLED) ## 25 sidecars on 3 nodes: leaders spread, a node is lost, and comes back; no cluster needed
	@$(BIN)/electionctl demo $(ARGS)

test: lint ## everything: lint, and all tests; those of image and cluster where there is an engine and root
	@$(BIN)/python -m tests.testbed.sessions $(ARGS)

test-fast: $(INSTALLED) ## the tests that need no server, in about a minute
	@$(BIN)/pytest -n 3 --dist worksteal $(ARGS) \
	  -m "not real and not election and not image and not cluster and not search"

test-image: $(INSTALLED) ## the tests of the image, as containers; another one: LEADER_ELECTOR_TEST_IMAGE=NAME
	@$(BIN)/pytest tests/image $(ARGS)

test-cluster: $(INSTALLED) ## the tests in pods on three nodes, made here as root, or on yours: KUBECONFIG=FILE
	@$(if $(KUBECONFIG),echo "on the cluster of $(KUBECONFIG)")
	@LEADER_ELECTOR_TEST_CLUSTER="$(KUBECONFIG)" $(BIN)/pytest tests/cluster $(ARGS)

cluster-up: $(INSTALLED) ## a real cluster of three nodes on this machine, as root; NODES=2 NODE_CPUS=0.5 PVS=12
	@$(BIN)/python -m tests.testbed.cluster up $(ARGS)

cluster-down: $(INSTALLED) ## end and remove it
	@$(BIN)/python -m tests.testbed.cluster down

image: ## build the image with `docker build`; another name: IMAGE=..., more options: BUILD=...
	@docker build $(BUILD) --tag $(IMAGE) \
	  --build-arg VERSION=$(VERSION) \
	  --build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null)" \
	  --build-arg CREATED="$$(git log -1 --format=%cI 2>/dev/null)" .

lint: $(INSTALLED) ## ruff, mypy, and the direction of imports
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { echo "error: not formatted; run: make format" >&2; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@report=$$($(BIN)/lint-imports --no-logo --no-cache 2>&1) || { echo "$$report"; exit 1; }

format: $(INSTALLED) ## format the code
	@$(BIN)/ruff format --quiet

explore: $(INSTALLED) ## every interleaving of two and three candidates, to a bound: millions of states, ten minutes
	@$(BIN)/python -m tests.safety.explore $(ARGS)

simulate: $(INSTALLED) ## random faults in virtual time, by seed, and a checker of what was served: SEEDS=10000
	@$(BIN)/python -m tests.safety.simulate $(if $(SEEDS),--seeds $(SEEDS)) $(ARGS)

chaos: $(INSTALLED) ## real processes and faults on a real API server, and the same checker: MINUTES=10
	@$(BIN)/python -m tests.safety.chaos $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

fuzz: $(INSTALLED) ## hostile input to whatever reads, guided by what it reaches: MINUTES=5
	@$(BIN)/python -m tests.safety.fuzz $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

mutants: $(INSTALLED) ## break each rule of safety once, and see which of these searches finds it
	@$(BIN)/python -m tests.safety.mutants $(ARGS)

bench: $(INSTALLED) ## what an election costs, measured on a real API server
	@$(BIN)/python -m tests.bench $(ARGS)

paper: $(INSTALLED) ## the evaluation of docs/paper, as root: hours; a part of it: ARGS="--only cpu --seconds 20"
	@$(BIN)/python -m tests.paper $(ARGS)

requirements: ## pin the requirement files anew with uv; newest versions: ARGS=--upgrade
	@command -v $(UV) >/dev/null || { echo "error: no uv; install it, or name it: make requirements UV=PATH" >&2; exit 1; }
	@$(COMPILE) pyproject.toml -o requirements.txt
	@$(COMPILE) --group image -o requirements-build.txt
	@$(COMPILE) k8s/store/requirements.in --constraint requirements.txt -o k8s/store/requirements.txt
	@$(COMPILE) pyproject.toml --extra lab --extra plot --group build --group test --group fuzz --group lint -o requirements-dev.txt

clean: ## remove .venv, caches and reports; what was built with Go stays in its cache outside of the tree
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find sidecar tests -name __pycache__ -prune -exec rm -rf {} +

# Made again when what is to be installed changed.
$(INSTALLED): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: $(PYTHON) is not Python 3.11 or later; name one: make $(MAKECMDGOALS) PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) has no venv module; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing into .venv ..."
	@$(PYTHON) -m venv .venv
	@$(PIP) --require-hashes -r requirements-dev.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@
