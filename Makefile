# make setup: the environment, into .venv        make test: set-up, then every test
# make demo:  set-up, built-in shapes, training on 2 ranks, evaluation, pictures
SHELL := /bin/bash
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
# What Open MPI asks of root, as in a container.
export OMPI_ALLOW_RUN_AS_ROOT=1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

.PHONY: setup test lint demo 

setup:
	@VENV=$(VENV) scripts/setup.sh

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck scripts/*.sh slurm/*.sh .ci/run

demo: setup
	PATH=$(BIN):$$PATH scripts/demo.sh runs/demo
