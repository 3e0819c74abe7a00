# `make` alone lists what there is to do. Every target sets up what it needs in .venv first.
VENV   := .venv
BIN    := $(VENV)/bin
CORE   := $(VENV)/.core
DEV    := $(VENV)/.dev
SOURCES := settings.ini setup.py pyproject.toml constraints.txt

FITS   := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3.13 python3; do $$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)
# the pins are for Python 3.11; elsewhere pip chooses
PINS    = $(shell $(BIN)/python -c 'import sys; print("-c constraints.txt" * (sys.version_info[:2] == (3, 11)))')

.DEFAULT_GOAL := help
.PHONY: help study test quick check pytest lint export tidy hooks notebooks readme docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

study: $(CORE) ## run a small study from start to end
	$(BIN)/goalmisgen study quick

test: lint check docs-preview pytest ## run every check and test

quick: $(DEV) lint ## the checks and tests that take seconds
	$(BIN)/python tools/check.py titles order imports sizes words rhythm stored docstrings export clean readme site_files
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'not slow'

check: $(DEV) ## is the package, the README and every stored output in step with the notebooks?
	$(BIN)/python tools/check.py

pytest: $(DEV)
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(DEV) ## lint notebooks, tools and tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check -q

export: $(DEV) ## write the package from the notebooks
	$(BIN)/nbdev_export

tidy: export ## write the package from the notebooks, and clean the notebooks
	$(BIN)/nbdev_clean

hooks: $(DEV) ## have git export, clean and lint on every commit
	$(BIN)/python -m pip install -q pre-commit
	$(BIN)/pre-commit install

notebooks: export ## re-run all notebooks and store their outputs
	$(BIN)/python tools/run_notebooks.py
	$(BIN)/nbdev_clean

readme: $(DEV) ## write README.md from nbs/index.ipynb
	$(BIN)/python tools/readme.py

docs: $(DEV) ## build the site: with quarto into _docs, without it a preview into _site
	@if command -v quarto >/dev/null; then $(BIN)/python tools/proc.py && \
	  cd _proc && quarto render --no-cache && rm -rf ../_docs && mv _docs ../_docs; \
	else $(MAKE) --no-print-directory docs-preview; fi

.PHONY: docs-preview
docs-preview: $(DEV)
	$(BIN)/python tools/proc.py
	$(BIN)/python tools/preview.py _proc _site
	$(BIN)/python tools/linkcheck.py _site

clean: ## remove what builds and checks leave behind (not .venv, runs or results)
	rm -rf _proc _docs _site build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find goalmisgen nbs tests tools -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

$(BIN)/python:
	@$(or $(PYTHON),false) -c '$(FITS)' 2>/dev/null || { \
	  echo "goalmisgen needs Python 3.10, 3.11, 3.12 or 3.13. Name one with: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(CORE): $(SOURCES) | $(BIN)/python
	@echo "Installing goalmisgen into $(VENV) (some minutes the first time)"
	$(BIN)/python -m pip install -q $(PINS) -e .
	@touch $@

$(DEV): $(SOURCES) | $(BIN)/python
	@echo "Installing goalmisgen and its development tools into $(VENV) (some minutes the first time)"
	$(BIN)/python -m pip install -q $(PINS) -e '.[dev]'
	@touch $(CORE) $@
