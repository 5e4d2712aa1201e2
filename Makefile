# The two commands of the README. Each makes what it needs; nothing has to be installed by hand.
PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
BIN    := $(VENV)/bin
PARALLEL = --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: demo test coverage check lint docs format clean

demo: $(VENV)/.base
	$(BIN)/ma-agiqa score examples/pictures
	$(BIN)/ma-agiqa gallery examples/pictures --title "Sample pictures" --quiet
	@echo "Open gallery.html in a browser: it lies in $(CURDIR)"

test: $(VENV)/.dev lint docs
	$(BIN)/python -m pytest $(PARALLEL)

# The same tests with every line counted: fails below the floor of pyproject.toml.
coverage: $(VENV)/.dev
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term

# The loop of a working day: lint, types and what is quick to test.
check: lint
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.base: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.base

clean:
	rm -rf $(VENV) dist build site .pytest_cache .mypy_cache .ruff_cache
