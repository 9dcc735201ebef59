# Everything a developer types. Each target sets up what it needs; a second call does not repeat it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST_WORKERS ?= 2

.PHONY: venv check format test fuzz demo bench lock wheel clean
.DELETE_ON_ERROR:

venv: $(VENV)/.ready

# The lock is installed with its hashes; our own package is then linked in without asking anybody for anything.
$(VENV)/.ready: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "foundling needs Python 3.11 to 3.13; choose one with: make PYTHON=python3.11 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "this Python cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

test: venv
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) $(ARGS)

# Each target for half of the time; inputs that broke something, and those that reached something new, lie in .fuzz/.
MINUTES ?= 10
fuzz: venv
	for target in http parsers; do mkdir -p .fuzz/$$target && FUZZ_FINDINGS=.fuzz \
	  $(BIN)/python -m tests.fuzz.$$target -max_total_time=$$(($(MINUTES) * 30)) .fuzz/$$target || exit 1; done

# KEEP=1 leaves the servers running and prints their addresses.
demo: venv
	@$(BIN)/python -m demo $(if $(KEEP),--keep)

bench: venv
	$(BIN)/python -m bench $(ARGS)

wheel: venv
	$(BIN)/python -m build --no-isolation --wheel

# Renews both locks for every Python we support. Hashes only: where packages come from is the machine's business.
lock: venv
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links --upgrade \
	  --output-file requirements.lock pyproject.toml
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links --upgrade \
	  --constraint requirements.lock --group dev --output-file requirements-dev.lock pyproject.toml

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .import_linter_cache .hypothesis .fuzz
