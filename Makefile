# Everything a person needs: `make demo` and `make test` work on a fresh machine with Python 3.11+ alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt

.PHONY: setup demo test lint format bench docs stack stack-down clean

setup: $(VENV)/.installed

$(VENV)/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "placeprint needs Python 3.11 or later, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv

$(VENV)/.installed: $(VENV)/bin/uv pyproject.toml constraints.txt
	@echo "installing packages (a few gigabytes, about a minute on a fast line) ..."
	$(UV) --compile-bytecode --editable .
	@$(BIN)/python -m compileall -q flows tasks storage
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(UV) --compile-bytecode --editable ".[test]"
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/placeprint run --config configs/demo.yaml

test: $(VENV)/.installed-test
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive flows tasks storage
	$(BIN)/python scripts/audit.py
	$(BIN)/python scripts/check_docker.py lint

format: $(VENV)/.installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/demo.py
	$(BIN)/python benchmarks/collect.py
	$(BIN)/python benchmarks/content.py
	$(BIN)/python benchmarks/encode.py
	$(BIN)/python benchmarks/dedup.py
	$(BIN)/python benchmarks/split.py
	$(BIN)/python benchmarks/heads.py
	$(BIN)/python benchmarks/orchestration.py

stack: $(VENV)/.installed-test
	$(BIN)/python scripts/stack.py up

stack-down: $(VENV)/.installed-test
	$(BIN)/python scripts/stack.py down

docs: $(VENV)/.installed
	$(BIN)/python scripts/write_settings_page.py
	$(BIN)/python scripts/write_interior_boxes_page.py

clean:
	rm -rf $(VENV) store build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
