# make demo       set up, run the whole loop, then serve it     (ARGS=--exit: exit after the loop)
# make test       set up and run all tests                      (ARGS="tests/runs -k lease": only these)
# make test-fast  run the tests without browser, workers, other processes and torch   (PYTHON=python3.13: with that Python)
# make sbom       write sbom.json, the list of all installed packages in CycloneDX's format
# make audit      look for known vulnerabilities of the pinned packages; needs the internet
# make check      formatter, linter, types (Python and JavaScript), import contracts, migrations, deploy check

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1

.PHONY: demo serve test test-fast check format sbom audit setup setup-dev browser clean

demo: setup
	@$(BIN)/python manage.py demo $(ARGS)

serve: setup
	@$(BIN)/python manage.py local $(ARGS)

test: setup-dev browser
	$(BIN)/python -m pytest $(if $(DATABASE_URL)$(REDIS_URL),,--numprocesses 2 --dist loadfile --no-loadscope-reorder) $(ARGS)

FAST := tests/accounts tests/config tests/demo tests/house tests/labeling tests/recipes tests/runs
FAST_VENV = .venv-fast/$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

test-fast:
	@if [ ! $(FAST_VENV)/installed -nt pyproject.toml ] || [ ! $(FAST_VENV)/installed -nt constraints.txt ]; then \
		$(PYTHON) -m venv $(FAST_VENV) && \
		$(FAST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]' && \
		touch $(FAST_VENV)/installed; fi
	$(FAST_VENV)/bin/python -m pytest -m "not browser and not processes and not slow and not torch and not worker" $(FAST) $(if $(DATABASE_URL)$(REDIS_URL),,--numprocesses 2 --dist loadfile --no-loadscope-reorder) $(ARGS)

check: setup-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python -m mypy
	$(BIN)/python -m tests.javascript
	$(BIN)/python manage.py makemigrations --check --dry-run
	TIEBREAK_HTTPS=1 TIEBREAK_ALLOWED_HOSTS=rank.example.org $(BIN)/python manage.py check --deploy --fail-level WARNING

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

SBOM_PYTHON ?= $(BIN)/python
AUDIT_VENV := .venv-audit

sbom: setup $(AUDIT_VENV)/.installed
	$(AUDIT_VENV)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file sbom.json $(SBOM_PYTHON)

audit: $(AUDIT_VENV)/.installed
	$(AUDIT_VENV)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict --progress-spinner off

$(AUDIT_VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -m venv $(AUDIT_VENV)
	@$(AUDIT_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt cyclonedx-bom pip-audit
	@touch $@

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

browser: setup-dev
	@$(BIN)/python -m tests.browser.install

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 14) else "Tiebreak needs Python 3.11 to 3.14; this is %d.%d. Try: make PYTHON=python3.12" % v)'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing packages (a minute or two the first time) …"
	@$(PIP) --editable '.[train]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing packages and test tools (a minute or two the first time) …"
	@$(PIP) --editable '.[train,dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) $(AUDIT_VENV) sbom.json .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info tests/javascript/node_modules
