# Everything a fresh machine needs: `make demo` shows it, `make test` proves it. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SOURCES := api service workers tests deploy
DEMO_FLAG := $(if $(filter short,$(DEMO)),--short)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(INSTALLED) ## Make .venv and install everything into it

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "make: $(PYTHON) is missing or older than 3.11; name another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "make: $(PYTHON) lacks venv; install it (on Debian and Ubuntu the package python3-venv)" >&2; exit 1; }
	@$(BIN)/python -c 'import pip' 2>/dev/null || { echo "Making $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing into $(VENV) (the first time takes minutes)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[worker,dev]'
	@touch $@

.PHONY: demo demo-short
demo: setup ## Run the main job for real: start, submit, follow, download, load, compare (DEMO=short: a smaller one)
	@$(BIN)/python deploy/demo/main_job.py $(DEMO_FLAG)

demo-short: ## The demo on a smaller model, about two minutes
	@$(MAKE) --no-print-directory demo DEMO=short

.PHONY: test
test: lint ## Check style, types and directions of imports, then run the tests
	$(BIN)/python -m pytest

.PHONY: lint
lint: setup ## Check style, types, directions of imports and undeclared dependencies
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry api service workers

.PHONY: bench
bench: setup ## Measure, side by side: steps with and without each option, their memory, speed, jobs, exports, searches, the queue
	@$(BIN)/python tests/bench/regularize_step.py
	@$(BIN)/python tests/bench/training_memory.py
	@$(BIN)/python tests/bench/speed.py
	@$(BIN)/python tests/bench/whole_job.py
	@$(BIN)/python tests/bench/export.py
	@$(BIN)/python tests/bench/search_sharing.py
	@$(BIN)/python tests/bench/early_stopping.py
	@$(BIN)/python tests/bench/trial_start.py
	@$(BIN)/python tests/bench/queue_depth.py
	@$(BIN)/python tests/bench/followers.py

.PHONY: faults
faults: setup ## Break the service for real, for long, and check its promises (FAULTS=2000 DATABASE=sqlite SEED=0 STATE=folder)
	@$(BIN)/python -m tests.faults.campaign --faults $(or $(FAULTS),2000) --database $(or $(DATABASE),sqlite) \
		--seed $(or $(SEED),0) $(if $(STATE),--state "$(STATE)")

.PHONY: lock
lock: setup ## Write constraints.txt anew from pyproject.toml
	@CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --upgrade --no-config --all-extras --strip-extras \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --unsafe-package torch \
		--output-file $(VENV)/constraints.txt pyproject.toml
	@# torch is pinned in pyproject.toml; what it brings along for GPUs differs by platform.
	@grep -vE '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==' $(VENV)/constraints.txt > constraints.txt

.PHONY: clean
clean: ## Remove .venv, caches and the demo's model
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
