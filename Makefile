# From a fresh clone: `make train` shows the whole program at work, `make test` runs every test.
# DEVICE=cuda installs the CUDA build of fbgemm and torchrec; the default is the CPU set.
DEVICE ?= cpu
PYTHON ?= python3.11
PROCESSES ?= 2
# What pip installs of this project; the image has it without the developers' tools: INSTALL='.[cpu]'.
INSTALL ?= --editable '.[$(DEVICE),dev]' --config-settings editable_mode=compat
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed-$(DEVICE)
TORCHREC := $(shell sed -n 's/^ *\(torchrec==.*\)/\1/p' setup.cfg)
LIBMTL := $(if $(findstring dev,$(INSTALL)),$(shell sed -n 's/^ *\(LibMTL==.*\)/\1/p' setup.cfg))

.PHONY: setup train test faults image-check slurm-check cluster-check lint format clean

setup: $(INSTALLED)

$(INSTALLED): setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(INSTALL)
	test $(DEVICE) = cuda || $(BIN)/pip install --quiet --no-deps $(TORCHREC)
	test -z "$(LIBMTL)" || $(BIN)/pip install --quiet --no-deps $(LIBMTL)
	touch $@

datasets/quickstart: | $(INSTALLED)
	$(BIN)/adatt synth $@ --samples 2.1M --test-samples 100k --tasks five

train: setup datasets/quickstart
	PROCESSES=$(PROCESSES) $(BIN)/python -m launch.entrypoint train configs/quickstart.toml

# Two tests at a time: many of them wait, or start ranks of their own.
test: setup
	$(BIN)/pytest --numprocesses 2 --dist worksteal

# The fault suite's long form: 48 kills, about three minutes, which print the table of docs/reliability.md; then 200 wrong
# inputs, each in processes of its own: about a quarter of an hour.
faults: setup
	$(BIN)/python -m tests.faults
	$(BIN)/python -m tests.faults.wrong_inputs 200

# Builds the image, without a Docker engine, and runs it; takes a few minutes, and root.
image-check: setup
	$(BIN)/python -m tests.image

# A real Slurm of two nodes on this machine runs the file that `adatt launch slurm` writes; a few minutes, and root.
slurm-check: setup
	$(BIN)/python -m tests.slurm

# Trainings on hosts made of network namespaces, which need root, and what harm does to them: under ten minutes.
cluster-check: setup
	$(BIN)/python -m tests.cluster

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info runs datasets
