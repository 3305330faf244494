# `make quickstart` and `make test` are all the set-up there is: each builds .venv when it is
# missing or older than setup.cfg. Use another environment with `make test VENV=/path/to/env`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Where `make audit` writes; results/audit.md is the published one.
AUDIT ?= runs/results/audit.md

.PHONY: quickstart quickstart-check test audit lint docs clean help

help:
	@echo "make quickstart   train on bundled digits, print the table, draw the figure (about 6 minutes on 2 cores)"
	@echo "make quickstart-check   the same in short, in a folder of its own: fails if nothing was trained"
	@echo "make test         ruff, mypy and every test (under 10 minutes on 2 cores)"
	@echo "make audit        every promise of tests/reliability, slow ones too; writes runs/results/audit.md"
	@echo "make docs         the pages of docs/ as a site in site/"
	@echo "make clean        remove caches; keeps runs/, results/ and the environment"

# Installed in editable mode with its extras. A half-built environment has no stamp, so it is built again.
$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 10) else 'Expected Python 3.10 or newer, but got ' + sys.version.split()[0] + '. Set PYTHON=/path/to/python3.')"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet -e ".[suite,test]"
	@touch $@

quickstart: $(VENV)/.installed
	$(BIN)/python reproduce.py quickstart --jobs 2

quickstart-check: $(VENV)/.installed
	$(BIN)/python -m tests.quickstart

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

# In an environment of its own, which needs neither torch nor the suite.
docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet
	@echo "site/index.html"

.venv-docs/.installed: setup.cfg
	@test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet "mkdocs-material>=9.6" "mkdocstrings[python]>=0.28"
	@touch $@

# -m "" takes the slow tests in; soak and kill tests set their own length.
audit: $(VENV)/.installed
	$(BIN)/python -m pytest tests/reliability -m "" -n 2 --audit $(AUDIT)

clean:
	rm -rf build site *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
