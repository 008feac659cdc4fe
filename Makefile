# Two commands do everything: `make serve` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help serve test lint fuzz try-image clean

help:
	@echo "make serve   set up, then serve the embedded checkpoint on http://127.0.0.1:8000"
	@echo "make test    set up, then run all tests"
	@echo "make lint    ruff and mypy"
	@echo "make fuzz    tens of thousands of damaged files, then ten thousand good ones"
	@echo "make try-image  build the image and try it, without a Docker engine (docker/try.py)"
	@echo "make clean   remove the virtual environment and caches"

serve: $(VENV)/.serve
	$(BIN)/scmrl serve $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

try-image:
	$(PYTHON) docker/try.py $(ARGS)

fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz $(ARGS)
	$(BIN)/python -m tests.fuzz.endurance

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# pip itself is left as the venv brings it: it is not what is being tested here.
$(VENV)/.serve: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.serve

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache *.egg-info
