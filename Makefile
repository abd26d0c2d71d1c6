# Two commands, on a machine that has Python >= 3.11 (with venv) and make: `make demo` and `make test`.

PORT ?= 8000
PYTHON ?= python3
# Where uv is missing it is installed into .tools/. It is always run by its name: a path may hold spaces and quotes.
UV := $(if $(shell command -v uv 2>/dev/null),,.tools/bin/uv)

export PATH := $(CURDIR)/.venv/bin:$(PATH):$(CURDIR)/.tools/bin
export UV_PROJECT_ENVIRONMENT := .venv
unexport VIRTUAL_ENV
# Python's caches in the template's folder would be copied into projects.
export PYTHONDONTWRITEBYTECODE := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-all bench drill picture docs lint fix

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.installed ## Bake the default answers and serve them on http://127.0.0.1:8000 (PORT=8000)
	@cookiecutter --no-input --overwrite-if-exists --output-dir .demo . >/dev/null
	@$(MAKE) --no-print-directory -C .demo/fastapi-service run PORT=$(PORT)

test: lint ## Lint and test the template and the projects that it generates, but for the slowest tests
	@pytest

test-all: lint ## Lint, and run all tests, as CI does
	@pytest -m ""

bench: .venv/.installed ## Compare the service with a hand-written baseline (ARGS=--quick: two minutes). Needs wrk
	@uv run --quiet --group bench python -m benchmarks $(ARGS)

drill: .venv/.installed ## Fail over a PostgreSQL cluster under load, and settle the clients' account. Debian 12, root for all faults
	@uv run --quiet --group drill python -m drill $(ARGS)

picture: .venv/.installed ## Draw the guide's dashboard from the metrics of a run of a minute
	@uv run --quiet --group bench python -m benchmarks.dashboard

docs: .venv/.installed ## Build the site of the documentation in site/html/; a dead link is an error
	@uv run --quiet --group docs sphinx-build --quiet --fail-on-warning --keep-going --conf-dir docs --doctree-dir site/.doctrees . site/html
	@echo 'open site/html/index.html'

lint: .venv/.installed ## Check the template's own code
	ruff check --no-cache
	ruff format --no-cache --check

fix: .venv/.installed ## Format, and fix what the linter can fix
	ruff check --no-cache --fix
	ruff format --no-cache

.venv/.installed: pyproject.toml | $(UV)
	@uv sync --quiet --compile-bytecode
	@touch $@

.tools/bin/uv:
	@echo 'uv is not on the PATH: installing it into .tools/'
	@"$(PYTHON)" -m venv .tools
	@.tools/bin/python -m pip install --quiet uv
