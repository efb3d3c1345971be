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
	@VENV="$(VENV)" scripts/setup.sh

# What computes in one process runs on all cores, one thread each; ranks, jobs and commands, which wait for each other much
# of the time, a file on each core.
test: setup
	@# Where PYTHONDONTWRITEBYTECODE is set, each of hundreds of processes would compile the package anew.
	@"$(BIN)"/python -m compileall -q hvd_r2n2
	@status=0; \
	OMP_NUM_THREADS=1 "$(BIN)"/python -m pytest -n auto --dist worksteal tests/unit tests/split tests/gpu || status=1; \
	"$(BIN)"/python -m pytest -n auto --dist loadfile --no-loadscope-reorder tests/ranks tests/slurm tests/e2e || status=1; \
	exit $$status

lint: setup
	"$(BIN)"/ruff check .
	"$(BIN)"/ruff format --check .
	"$(BIN)"/mypy
	"$(BIN)"/shellcheck scripts/*.sh slurm/*.sh .ci/run

demo: setup
	PATH="$(BIN):$$PATH" scripts/demo.sh runs/demo
