# One command for each thing that one does with this project; `make help` lists them.
# Nothing but make and python3 (3.11 to 3.13) has to be there. `make check` also takes Node.js for Microsoft's KQL parser.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NODE_MODULES := node_modules/.package-lock.json
BUILD := .build
DEMO := .demo
# The database of a tenant that no demo has filled needs its tables; where they are, nothing changes.
UI = $(BIN)/defender-adx bootstrap && exec $(BIN)/dagster dev -w workspace.yaml $(if $(PORT),--port $(PORT))
STATEMENTS := $(BUILD)/statements.jsonl

# Tests that need more than Python have targets of their own.
ONLY_PYTHON := not azurite and not binding and not browser and not kills and not backfill
# What `make long` runs of those that Python is enough for.
LONG := long and $(ONLY_PYTHON)
# A module stays in one process, since its tests share a tenant.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadscope
RECORDED := DEFENDER_ADX_STATEMENTS="$(CURDIR)/$(STATEMENTS)"

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo ui test long check format lint types azurite kql generated kills faults chaos days backfill browser pictures clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## Move a local tenant into a local ADX with real Dagster runs (SAMPLES=FILE adds real records)
	$(BIN)/defender-adx demo $(if $(SAMPLES),--samples "$(SAMPLES)")

ui: $(INSTALLED) ## Dagster's web page over the local tenant of the demo, with the demo's runs (PORT=N, else 3000)
	@mkdir -p "$(DEMO)/dagster"
	@cp dagster.yaml "$(DEMO)/dagster/dagster.yaml"
	@echo "Starting the local tenant in $(DEMO), then Dagster. Ctrl-C ends both."
	@exec $(BIN)/defender-adx local --home "$(DEMO)" -- sh -c '$(UI)'

test: $(INSTALLED) ## The tests, but for the long ones; they need nothing but Python
	@mkdir -p $(BUILD)
	@rm -f $(STATEMENTS)
	$(RECORDED) $(BIN)/pytest -m "not long and $(ONLY_PYTHON)" $(PARALLEL)

long: $(INSTALLED) ## The long tests: simulations, whole runs under faults, every hunting query on both sides
	@mkdir -p $(BUILD)
	$(RECORDED) $(BIN)/pytest -m "$(LONG)" $(PARALLEL)

check: format lint types test long azurite kql ## Everything that has to pass before a change lands

format: $(INSTALLED) ## Check the format (mend it with: .venv/bin/ruff format)
	$(BIN)/ruff format --check

lint: $(INSTALLED) ## Check the style
	$(BIN)/ruff check

types: $(INSTALLED) ## Check the types
	$(BIN)/mypy

azurite: $(INSTALLED) $(NODE_MODULES) ## The tests against Azurite, Microsoft's storage emulator (Node.js)
	@mkdir -p $(BUILD)
	$(RECORDED) $(BIN)/pytest -m azurite

kql: $(INSTALLED) $(NODE_MODULES) ## Microsoft's parser over kql/, the hunting queries and all statements of the last test run (Node.js)
	@test -s $(STATEMENTS) || { echo "no statements recorded in $(STATEMENTS): run make test first"; exit 1; }
	node --test tools/
	$(BIN)/pytest -m binding defender_adx_pipeline_tests/queries
	$(BIN)/python tools/kql_inputs.py $(BUILD)/kql
	node tools/kql_check.js $(BUILD)/kql/schema.json $(BUILD)/kql/scripts.jsonl $(STATEMENTS)

generated: $(INSTALLED) ## Write the files of kql/ and docs/ that come from the catalogue and the settings anew
	$(BIN)/python tools/generate_kql.py
	$(BIN)/python tools/generate_docs.py

kills: $(INSTALLED) ## Kill -9 a loading run at 20 random points, run again, compare every row (long)
	$(BIN)/python defender_adx_pipeline_tests/kills.py $(if $(POINTS),--points $(POINTS))

faults: $(INSTALLED) ## Every fault through whole runs, 300 kills among them (long); SUBSET=1 has a part of the cases
	$(BIN)/python -m defender_adx_pipeline_tests.faults $(if $(SUBSET),--subset,--kills 300)

chaos: $(INSTALLED) ## The demo with a tenth of all calls faulty, once for each of 10 seeds (SEEDS=N), compared row by row (long)
	$(BIN)/python defender_adx_pipeline_tests/chaos.py $(if $(SEEDS),--seeds $(SEEDS))

days: $(INSTALLED) ## Ten days (DAYS=N) with all schedules and sensors on, under a clock 480 times as fast (SCALE=N), compared row by row (long; takes a C compiler)
	$(BIN)/python -m defender_adx_pipeline_tests.days $(if $(DAYS),--days $(DAYS)) $(if $(SCALE),--rate $(SCALE))

backfill: $(INSTALLED) ## Thirty days (DAYS=N) of all event tables backfilled from Dagster's page, compared row by row (long; Chromium)
	@command -v chromium >/dev/null || { echo "no chromium on this machine: apt-get install chromium"; exit 1; }
	$(if $(DAYS),DEFENDER_ADX_BACKFILL_DAYS=$(DAYS)) $(BIN)/pytest -m backfill

browser: $(INSTALLED) ## The tests that click through Dagster's web page in headless Chromium
	@command -v chromium >/dev/null || { echo "no chromium on this machine: apt-get install chromium"; exit 1; }
	$(BIN)/pytest -m browser

pictures: $(INSTALLED) ## The screenshots of docs/ anew, out of the browser tests
	DEFENDER_ADX_PICTURES=docs $(BIN)/pytest -m browser -k "not make_ui" -o timeout=1200

clean: ## Remove what the other targets made, but for .venv and node_modules
	rm -rf $(BUILD) $(DEMO) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . \( -path ./$(VENV) -o -path ./node_modules \) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	@touch $@

$(NODE_MODULES): package.json package-lock.json .npmrc
	@command -v npm >/dev/null || { echo "no npm on this machine: install Node.js 20 or later"; exit 1; }
	npm ci --ignore-scripts --no-fund --no-audit
	@touch $@
