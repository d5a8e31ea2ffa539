# Two commands: `make run` (everything, with a demo on an empty installation) and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help run test test-all check format clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

run: $(VENV)/installed ## install, then start MLflow, a worker and the dashboard; on an empty installation with a demo
	@$(BIN)/simplenet up --demo

test: $(VENV)/installed-dev check ## install, then check and run the quick tests
	$(BIN)/pytest -m "not slow" --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

test-all: $(VENV)/installed-dev check ## the same with the slow tests
	$(BIN)/pytest --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

check: $(VENV)/installed-dev ## style, types and the rules on imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed-dev ## mend the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the virtual environment; what installations keep is left alone
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python %d.%d is too old; 3.11 or newer is needed. Name one: make PYTHON=python3.12" % sys.version_info[:2])'
	@echo "Making $(VENV) …"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV); the first time takes some minutes and about 6 GB …"
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "Installing what the tests need …"
	@$(INSTALL) --editable ".[dev]"
	@touch $@
