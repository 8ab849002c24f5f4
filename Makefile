# `make help` lists the targets. Everything is installed into $(VENV), nothing outside it but the
# cache of compiled wheels (MMJEPA_CACHE, default ~/.cache/mmjepa).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
ARGS ?=
# without TORCH on the command line, the torch that was chosen last stays
TORCH ?= $(shell cat $(VENV)/.torch 2>/dev/null || echo torch==2.13.0)

PY := $(VENV)/bin/python
INSTALL = PYTHON='$(PYTHON)' VENV='$(VENV)' PIP_ARGS='$(PIP_ARGS)' bash tools/install.sh
BASE := $(VENV)/.installed-base
DEV := $(VENV)/.installed-dev
ALL := $(VENV)/.installed-all
reqs = $(foreach name,$(1),requirements/$(name).txt)

.PHONY: help
help:  ## this list
	@echo 'make <target>  [TORCH="torch==2.13.0"] [PIP_ARGS="pip options"] [PYTHON=python3] [VENV=.venv]'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' Makefile

.PHONY: demo
demo: $(BASE)  ## from nothing: simulate LiDAR, pre-train AD-L-JEPA, probe it, draw pictures
	$(PY) tools/demo.py $(ARGS)

.PHONY: install
install: $(BASE)  ## runtime and LiDAR requirements; nothing is compiled
	$(PY) tools/check_env.py

.PHONY: install-all
install-all: $(ALL)  ## everything; compiles mmcv's ops once (5 to 8 minutes on 2 cores)
	$(PY) tools/check_env.py --all

.PHONY: test
test: $(ALL)  ## the default test suite (ARGS='-k name' narrows it)
	$(PY) -m pytest $(ARGS)

.PHONY: test-slow
test-slow: $(ALL)  ## the tests marked slow
	$(PY) -m pytest -m slow $(ARGS)

.PHONY: lint
lint: $(DEV)  ## ruff (lint and format) and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

.PHONY: format
format: $(DEV)  ## write ruff's format and its safe fixes
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

.PHONY: docs
docs: $(DEV)  ## site/ from docs/
	@$(INSTALL) docs
	$(PY) -m mkdocs build --quiet

.PHONY: wheel
wheel: $(DEV)  ## dist/mmjepa-*.whl, configs included
	$(PY) -m build --wheel --no-isolation

.PHONY: clean
clean:  ## caches and build leftovers; the environment, data and work_dirs stay
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Stamps: a second run does no pip work until a requirement file or TORCH changes.
.PHONY: FORCE
FORCE:

$(VENV)/.torch: FORCE
	@[[ -f $@ && "$$(cat $@)" == '$(TORCH)' ]] || { $(INSTALL) torch '$(TORCH)' && echo '$(TORCH)' > $@; }

$(BASE): $(VENV)/.torch $(call reqs,runtime lidar) setup.py
	@$(INSTALL) base && touch $@

$(DEV): $(BASE) $(call reqs,dev)
	@$(INSTALL) dev && touch $@

$(ALL): $(DEV) $(call reqs,mm3d image video tests) $(wildcard projects/*/requirements.txt) tools/build_mmcv.sh
	@$(INSTALL) all && touch $@
