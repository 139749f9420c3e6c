# `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
GO_SOURCES := $(shell find dataplane -name '*.go' -o -name go.mod -o -name go.sum)

help: ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

build: $(VENV)/.stamp ## from nothing to .venv/bin/atoll and its programs beside it

$(VENV)/.stamp: pyproject.toml constraints.txt hatch_build.py $(GO_SOURCES)
	scripts/build $(PYTHON) $(VENV)
	touch $@

demo: build ## set up everything and run the main job
	scripts/packages demo
	scripts/demo

test: build ## set up and run every test, but the heavy ones
	scripts/packages test
	$(MAKE) --no-print-directory check
	scripts/test -m 'not heavy'

test-all: build ## every test, the heavy ones too
	scripts/packages test
	$(MAKE) --no-print-directory check
	scripts/test

check: build ## format, lint, types, floors, generated code
	scripts/check

generate: build ## write the code that is generated from proto/ and from the async SDK
	scripts/generate

bench: build ## measure, beside the raw thing in the same run; writes bench.json
	scripts/packages test
	$(BIN)/python benchmarks/run.py

fuzz: ## fuzz the parsers of the dataplane, 30 s each
	scripts/fuzz

lock: build ## write constraints.txt from what is installed
	$(BIN)/pip freeze --exclude-editable > constraints.txt

clean: ## remove what was built
	rm -rf $(VENV) build dist

.PHONY: help build demo test test-all check generate bench fuzz lock clean
