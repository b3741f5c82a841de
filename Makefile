# Everything runs from a virtual environment in .venv, made here with pinned versions.
#
#   make help    list the targets
#
# PYTHON chooses the interpreter (3.11 or newer), TORCH the build of torch (a pinned name, or a wheel).

PYTHON ?= python3
TORCH ?= torch==2.13.0
EXTRAS ?= swin,train,test
BIN := .venv/bin
READY := .venv/ready
TYPED := $(addprefix -p flysoma.,tasks models analysis scripts) -m flysoma.axes -m flysoma.errors
PYTEST := $(BIN)/python -m pytest
PARALLEL := -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow chaos lint format clean

help: ## List the targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

venv: $(READY) ## Install flysoma and all it needs, pinned, into .venv

$(READY): setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "flysoma needs Python 3.11 or newer; choose one with: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -q -y python3-venv; } \
	  || { echo "Python's venv module is missing; install it with: sudo apt-get install python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q "$(TORCH)"
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

demo: venv ## Run every stage on a synthetic piece of fly brain
	$(BIN)/flysoma demo

test: lint ## Check style and types, then run the tests that are not marked slow
	$(PYTEST) $(PARALLEL) -m "not slow"

test-slow: venv ## Run the tests that are marked slow
	$(PYTEST) $(PARALLEL) -m slow

chaos: venv ## Run the long form of tests/chaos: at least a hundred kills
	FLYSOMA_CHAOS_KILLS=100 $(PYTEST) -s tests/chaos

lint: venv ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p build/types && ln -sfn "$(CURDIR)" build/types/flysoma
	$(BIN)/mypy $(TYPED)

format: venv ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Delete what builds, tests and checks leave behind
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -type d -name __pycache__ -print0 | xargs -0r rm -rf
