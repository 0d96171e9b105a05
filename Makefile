# The commands people use. Each does its own set-up: only Python >= 3.11 and make are needed.

PYTHON ?= python3
PORT   ?= 8000
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
BENCH  := $(VENV)/bench

.PHONY: help demo iron test lint types bench package lowest clean

help:            ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 10

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; name one with: make PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing (on Debian: apt install python3-venv)"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

demo: $(READY)   ## the dashboard with its own authorization server (make demo PORT=8001)
	$(BIN)/python -m examples.dashboard --port $(PORT)

iron: $(READY)   ## iron-session (Node 20+, npm) and FastAPI on one cookie, at http://127.0.0.1:3000
	$(BIN)/python -m examples.iron_session

test: $(READY)   ## every test; real components that are not installed are skipped by name
	$(BIN)/python -m pytest

lint: $(READY)   ## style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## mypy (strict) and pyright
	$(BIN)/mypy
	$(BIN)/mypy examples/minimal.py tests/typing_checks.py
	$(BIN)/pyright

bench: $(BENCH)/.ready  ## speed, bytes and storms, beside what else one could use: benchmarks/RESULTS.md
	$(BENCH)/bin/python -m benchmarks

$(BENCH)/.ready: pyproject.toml $(READY)
	@$(BIN)/python -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BENCH)/bin/python -m pip install --quiet --editable . --group bench
	@touch $@

package: $(VENV)/.package ## build wheel and sdist into dist/, and test them without the source
	$(BIN)/python .ci/package.py newest

lowest: $(VENV)/.package  ## the same tests with the oldest dependencies that are declared
	$(BIN)/python .ci/package.py lowest

$(VENV)/.package: $(READY)
	$(BIN)/python -m pip install --quiet --group package
	@touch $@

clean:           ## remove what the commands above made
	rm -rf $(VENV) dist .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
