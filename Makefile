.DEFAULT_GOAL := help
PYTHON ?= python3
PORT ?= 4000
ROUNDS ?= 240
# what `make conformance` runs: each contract's command, or CMD
OURS_send_event = $(PYTHON) send_event.py
OURS_hook = $(PYTHON) tests/contract/reference_hook.py
OURS_functions = $(PYTHON) tests/contract/reference_functions.py
CONTRACTS = $(or $(CONTRACT),$(if $(CMD)$(K),send_event,send_event hook functions))
TO = $(if $(PROJECT),"$(PROJECT)",$(error say where: make $@ PROJECT=folder)) \
	$(if $(AGENT),--agent $(AGENT))
VENV := .venv
BIN := $(VENV)/bin
# what a build environment may set, and no hook has
unexport PYTHONDONTWRITEBYTECODE PYTHONUNBUFFERED PYTHONPATH

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Play a recorded session: events arrive, a server dies, and comes back
	$(PYTHON) tests/demo.py

.PHONY: serve
serve: ## Receive events on PORT (4000), show them on a page (IMPORT=file: a log, too)
	$(PYTHON) tests/server --port $(PORT) $(if $(IMPORT),--import "$(IMPORT)") $(if $(POLICY),--policy "$(POLICY)")

.PHONY: install
install: ## Install into PROJECT=folder (AGENT=codex, SOURCE_APP=name)
	$(PYTHON) hook_io.py install $(TO) $(if $(SOURCE_APP),--source-app "$(SOURCE_APP)")

.PHONY: uninstall
uninstall: ## Take it out of PROJECT=folder (AGENT=codex: for that agent alone)
	$(PYTHON) hook_io.py uninstall $(TO)

# on two cores: while two of the four have work, the others wait for a server or a hook
.PHONY: test
test: $(VENV)/made ## Run every test on each Python that is found (K=word: some)
	$(BIN)/python -m pytest -c tests/pytest.ini -n 4 --dist worksteal \
	$(if $(K),-k "$(K)")

.PHONY: again
again: $(VENV)/made ## Run what failed in the last `make test`, one after the other
	$(BIN)/python -m pytest -c tests/pytest.ini --last-failed --lfnf none

.PHONY: conformance
conformance: ## Hold our scripts, or CMD="node x.mjs", against the contract (CONTRACT, K)
	$(foreach name,$(CONTRACTS),$(PYTHON) tests/contract/conformance.py --contract $(name) \
	$(if $(K),-k "$(K)") -- $(or $(CMD),$(OURS_$(name))) &&) true

.PHONY: windows
windows: ## Hold our scripts against the contracts on Windows' CPython, under Wine
	CONTRACTS="$(CONTRACTS)" tests/windows/run.sh .windows $(if $(K),-k "$(K)")

.PHONY: live
live: ## Run the real agents with our hooks installed, offline (needs npm; CLIENT=codex)
	$(PYTHON) tests/live/live.py $(CLIENT)

.PHONY: audit
audit: ## Print each point that emits: its intent, its channel, who reads it
	$(PYTHON) tests/contract/audit.py

.PHONY: fleet
fleet: $(VENV)-fleet/made ## Run attribution in ClickHouse's engine, behind a collector (0.5 GB)
	$(VENV)-fleet/bin/python -m pytest -q -rs -p no:cacheprovider \
	tests/server/fleet/test_fleet.py

# in a network of its own, as a server of these listens on all interfaces and calls home,
# and with processes of its own, so that none stays
APART = -rnpf --mount-proc --kill-child

.PHONY: receivers
receivers: $(VENV)-receivers/made ## Show a turn in Phoenix and MLflow (1.5 GB; PICTURE=file)
	PICTURE="$(PICTURE)" $(shell unshare $(APART) true 2>/dev/null && echo unshare $(APART)) \
	sh -c 'ip link set lo up 2>/dev/null; exec "$$@"' - $(VENV)-receivers/bin/python \
	-m pytest -c tests/receivers/pytest.ini -q -rs tests/receivers/test_receivers.py

.PHONY: lint
lint: $(VENV)/made ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/mypy --strict hook_io.py send_event.py

.PHONY: bench
bench: $(VENV)/made ## Measure latency beside floors and PEERS=folder (CHECK=1: judge)
	$(BIN)/python tests/measure/bench.py --rounds $(ROUNDS) $(if $(CHECK),--check) \
	$(if $(PEERS),--peers "$(PEERS)")

.PHONY: cost
cost: $(VENV)/made ## Measure what hooks cost a real Claude Code (needs npm; PEERS=folder)
	$(BIN)/python tests/measure/cost.py $(if $(PEERS),--peers "$(PEERS)")

.PHONY: story
story: ## Measure the story of 10,000 events, an export, and a Stop that exports detached
	$(PYTHON) tests/measure/story.py

.PHONY: page
page: $(VENV)/made ## Measure the page of make serve in Chromium, with 10,000 and 100,000 events
	$(BIN)/python tests/measure/page.py

.PHONY: load
load: ## Send make serve 2,000 events a second for a minute (LOAD="--page --rounds 3")
	$(PYTHON) tests/measure/load.py $(LOAD)

.PHONY: soak
soak: $(VENV)/made ## Fuzz, faults and load for 15 minutes (PART, SECONDS, SEED)
	$(BIN)/python tests/measure/soak.py $(if $(PART),--part $(PART)) \
	$(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

.PHONY: clean
clean: ## Remove what the other targets made
	rm -rf $(VENV) .windows $(VENV)-fleet $(VENV)-receivers .pytest_cache .mypy_cache .ruff_cache .hypothesis __pycache__ tests/__pycache__ \
	tests/*/__pycache__

$(VENV)-fleet/made: tests/server/fleet/requirements.txt
	$(PYTHON) -m venv $(VENV)-fleet
	$(VENV)-fleet/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(VENV)-receivers/made: tests/receivers/requirements.txt
	$(PYTHON) -m venv $(VENV)-receivers
	$(VENV)-receivers/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(VENV)/made: tests/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@
