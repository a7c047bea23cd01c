# Needs make and Python 3.11 or 3.12; all else comes into .venv. Tests of Apache Kafka also want Java 17 and Maven.

# The first of these that really runs: a version manager's shim may stand for a Python that is not there.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed
IRIS := pipelines/iris/model.joblib
OTHERS := .pytest_cache/others.log

.DEFAULT_GOAL := help
.PHONY: help setup browser lint check test test-embedded test-others nightly faults soak demo up bench docs proto clean \
	bench-smoke bench-smoke-alone bench-smoke-on-kafka

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(INSTALLED) $(IRIS) browser ## install everything into .venv and train the sample model

# Done again only when what is to be installed has changed.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed: none is on the PATH" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,explain,onnx,otel,runtimes]'
	@touch $@

# The tests of the page drive one; where it can be neither found nor installed they say so.
browser:
	@for b in chromium chromium-browser google-chrome; do command -v $$b >/dev/null && exit 0; done; \
	if command -v apt-get >/dev/null && test "$$(id -u)" = 0; then \
		echo "installing chromium for the tests of the page" && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null && exit 0; \
	fi; \
	echo "no Chromium is here and none could be installed: tests/web needs one" >&2

# Order only: the model is trained when it is missing, not whenever something was installed.
$(IRIS): | $(INSTALLED)
	$(BIN)/python pipelines/train_iris.py

lint: setup ## format, lint, types, layers, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell --quiet-level 2

check: lint ## the same, and the tests that need no broker
	$(BIN)/pytest -m "not broker"

test: ## all tests, on the embedded broker and on Apache Kafka where Java and Maven are there
	@$(MAKE) --no-print-directory --keep-going --jobs 2 test-embedded test-others

# Two runs side by side, as most tests wait for processes most of the time; the second is shown when it has ended.
test-embedded: setup
	$(BIN)/pytest -m "broker and not kafka"

test-others: setup
	@mkdir -p $(dir $(OTHERS))
	$(BIN)/pytest -m "kafka or not broker" > $(OTHERS) 2>&1; code=$$?; cat $(OTHERS); exit $$code

nightly: setup ## the tests of rules, bodies and the REST contract with many more examples
	$(BIN)/pytest tests/properties tests/contract/test_openapi.py tests/contract/test_round_trip.py \
		--hypothesis-profile nightly

# FAULTS=brief is what CI runs; SEED=... makes the same choices again; FAULTS_TABLE=FILE collects the counts.
faults: setup ## kill, freeze and cut everything under load, and count what is lost or doubled
	FAULTS=$(or $(FAULTS),full) $(BIN)/pytest tests/faults

soak: setup ## the same for half an hour, watching memory; SOAK_SECONDS=... for another time
	FAULTS=soak $(BIN)/pytest tests/faults

demo: setup ## start everything, send requests to the sample pipelines, show the answers
	$(BIN)/python pipelines/demo.py

up: setup ## run broker, workers and gateway for pipelines/ until Ctrl-C
	$(BIN)/seldon up pipelines/

bench: setup ## measure beside peers, print the tables and write bench/results/DATE.md: about an hour
	$(BIN)/python -m bench

bench-smoke: ## the same in a tiny form, which shows that its parts work: figures mean little, so two run side by side
	@$(MAKE) --no-print-directory --keep-going --jobs 2 bench-smoke-alone bench-smoke-on-kafka

bench-smoke-alone bench-smoke-on-kafka: bench-smoke-%: setup
	$(BIN)/python -m bench --quick --only $*

docs: setup ## write docs/cli.md from the commands themselves
	$(BIN)/python docs/make_cli.py

# The messages' descriptors; the file's name inside them starts at apis/.
proto: setup ## compile the V2 protocol file into engine/protocol
	$(BIN)/python -m grpc_tools.protoc -I apis --include_imports \
		--descriptor_set_out=engine/protocol/v2_dataplane.binpb mlops/v2_dataplane/v2_dataplane.proto

clean: ## remove .venv, caches, Kafka's jars and the trained sample
	rm -rf .venv .venv-bench .venv-kserve dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache \
		tests/kafka/jars $(IRIS)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
