# Everything runs from a virtual environment in .venv, made here with pinned versions.
#
#   make demo    set up, then run every stage on a made-up piece of fly brain
#   make test    set up, then check the style and run the tests
#   make chaos   the long form of tests/chaos: a hundred kills and more
#
# PYTHON chooses the interpreter (3.11 or newer), TORCH the build of torch (a pinned name, or a wheel).

PYTHON ?= python3
TORCH ?= torch==2.13.0
EXTRAS ?= swin,train,test
BIN := .venv/bin
READY := .venv/ready
TYPED := -p flysoma.analysis -m flysoma.tasks.geometry -m flysoma.tasks.config -m flysoma.tasks.store

.PHONY: venv demo test chaos lint format clean

venv: $(READY)

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

demo: venv
	$(BIN)/flysoma demo

test: lint
	$(BIN)/python -m pytest

chaos: venv
	FLYSOMA_CHAOS_KILLS=100 $(BIN)/python -m pytest -s tests/chaos

lint: venv
	$(BIN)/ruff check .
	@mkdir -p build/types && ln -sfn "$(CURDIR)" build/types/flysoma
	$(BIN)/mypy $(TYPED)

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -type d -name __pycache__ -print0 | xargs -0r rm -rf
