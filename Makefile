# Ballast. `make` alone explains itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread per process: torch's default threads spin on small machines.
export OMP_NUM_THREADS ?= 1

# make test: how many processes; most of a test waits for a socket, a database or a page.
JOBS ?= 2

# make run: EXCHANGE picks a live venue (binanceusdm, bybit); EDGE and SEED shape the sandbox market.
EXCHANGE ?= sandbox
EDGE ?=
SEED ?=
ARGS ?=
BENCHMARKS := features warehouse ingest broker promotion speed

.DEFAULT_GOAL := help
.PHONY: help setup run test check fmt sim bench clean

help: ## Print this help
	@echo "Ballast: a paper-trading daemon that learns its own portfolio weights."
	@echo
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'
	@echo
	@echo "  make run                        the sandbox venue with a planted edge (not real data)"
	@echo "  make run EDGE=0                 the same market without an edge: expect a refusal"
	@echo "  make run EXCHANGE=binanceusdm   live public data of Binance USD-M (or bybit); paper orders only"
	@echo "  make run ARGS='--until-bars 50' any further argument of 'ballast run'"

$(VENV)/.run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Ballast needs Python 3.11 or newer; '$(PYTHON)' is older. Try: make PYTHON=python3.12" >&2; exit 2; }
	@echo "setting up $(VENV) (a few minutes the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(VENV)/.dev ## Create .venv with pinned versions, tools included

run: $(VENV)/.run ## Run the daemon on embedded defaults (sandbox venue, chDB, SQLite, page)
	@exec $(BIN)/ballast run \
		$(if $(filter-out sandbox,$(EXCHANGE)),--exchange $(EXCHANGE)) \
		$(if $(EDGE),--edge $(EDGE)) $(if $(SEED),--synthetic $(SEED)) $(ARGS)

test: $(VENV)/.dev ## Run the tests (loopback only), JOBS files side by side
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

check: $(VENV)/.dev ## Lint, format, types, layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fmt: $(VENV)/.dev ## Format the code and fix what lint can fix
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

sim: $(VENV)/.dev ## Run the long seeded simulations
	@$(BIN)/python -m pytest -m simulation tests

bench: $(VENV)/.dev ## Run the benchmarks; each ends with one JSON document
	@for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name --json || exit 1; done

clean: ## Remove caches and the environment (keeps ./var)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
