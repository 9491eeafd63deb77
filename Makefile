# convlens: `make train`, `make test`. Every target sets up .venv by itself on first use.
# What is typed behind a target goes to the command: make train exp=scratch data.size=96
# A laptop without a GPU may ask for the small build of torch: make train TORCH_BACKEND=cpu

SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# make's own spelling of the words key=value, as one argument; convlens takes it apart again
WORDS = '--make=$(subst ','\'',$(MAKEOVERRIDES))'
# the type checker and the API reference read an installed copy: there callbacks/ is convlens.callbacks
INSTALL_COPY = rm -rf build && $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --target build/package .
COMMANDS := train resume eval explain predict report compare runs kernel plan lr-find split tensorboard
TARGETS := help setup lint format docs test test-slow kill fuzz bench bench-throughput bench-filters bench-explanations bench-looking bench-scaling bench-gpu $(COMMANDS)

# a word that is neither key=value nor a target would otherwise fail only after the training
UNKNOWN := $(filter-out $(TARGETS),$(MAKECMDGOALS))
ifneq ($(UNKNOWN),)
$(error $(firstword $(UNKNOWN)): no such target or key=value; `make help` lists the targets)
endif
# two commands cannot share the words: each would get the other's
ifneq ($(word 2,$(filter $(COMMANDS),$(MAKECMDGOALS))),)
$(error one command at a time, not: $(filter $(COMMANDS),$(MAKECMDGOALS)))
endif

.PHONY: $(TARGETS)
.DEFAULT_GOAL := help

help:  ## this list
	@sed -n 's/^\([a-z][a-z-]*\):.*  ## \(.*\)/\1  \2/p' $(MAKEFILE_LIST) | awk -F'  ' '{printf "make %-18s %s\n", $$1, $$2}'

train: $(VENV)/ready  ## train; exp=NAME picks a recipe, key=value sets anything
	@$(BIN)/convlens train $(WORDS)

resume: $(VENV)/ready  ## run=RUN_DIR: continue a stopped run, to the same end
	@$(BIN)/convlens resume $(WORDS)

eval: $(VENV)/ready  ## ckpt=FILE: test-set results of a checkpoint
	@$(BIN)/convlens eval $(WORDS)

explain: $(VENV)/ready  ## ckpt=FILE image=PATH: classes, and every explanation of a picture or a folder
	@$(BIN)/convlens explain $(WORDS)

predict: $(VENV)/ready  ## ckpt=FILE images=DIR: predictions.csv, every class's probability
	@$(BIN)/convlens predict $(WORDS)

report: $(VENV)/ready  ## run=RUN_DIR: the whole run on one self-contained page
	@$(BIN)/convlens report $(WORDS)

compare: $(VENV)/ready  ## runs="A B …": runs side by side on one page
	@$(BIN)/convlens compare $(WORDS)

runs: $(VENV)/ready  ## all runs in one table; sort=test/accuracy, dir=outputs
	@$(BIN)/convlens runs $(WORDS)

kernel: $(VENV)/ready  ## image=FILE kernel=NAME or numbers: a kernel slid over a picture
	@$(BIN)/convlens kernel $(WORDS)

plan: $(VENV)/ready  ## exp=NAME or ckpt=FILE: data, layers and what will be logged, without training
	@$(BIN)/convlens plan $(WORDS)

lr-find: $(VENV)/ready  ## exp=NAME: the loss over rising learning rates, with its plot
	@$(BIN)/convlens lr-find $(WORDS)

split: $(VENV)/ready  ## src=DIR dst=DIR: class folders to train/validation/test
	@$(BIN)/convlens split $(WORDS)

tensorboard: $(VENV)/ready  ## TensorBoard over outputs/, every step of every picture kept
	@$(BIN)/convlens tensorboard $(WORDS)

# as many processes as cores, each on one thread; args="-n0 --pdb" for one
test: $(VENV)/ready  ## the tests, below eight minutes; args="-k captum" for some of them
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses=4 --dist=worksteal $(args)

test-slow: $(VENV)/ready  ## the long proofs; args="-k ddp" for some of them
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n logical --maxprocesses=4 --dist=worksteal $(args)

kill: $(VENV)/ready  ## kill -9 at random moments, each run resumed (args="--moments 20 --seed 1")
	@$(BIN)/python tests/support/kill.py $(args)

fuzz: $(VENV)/ready  ## hostile input, 10,000 cases each (args="--cases 10000 --seed 0 --only NAME")
	@$(BIN)/python tests/robustness/fuzz/run.py $(args)

bench: $(VENV)/ready  ## every benchmark in one table, us beside the peers (args="--rows NAME,… --quick")
	@$(BIN)/python benchmarks/bench.py $(args)

bench-throughput: $(VENV)/ready  ## images/s beside the Keras recipe, in one run (args="--task ...")
	@$(BIN)/python benchmarks/throughput.py $(args)

bench-filters: $(VENV)/ready  ## filter pictures beside one at a time through all of VGG16, and lucent
	@$(BIN)/python benchmarks/filters.py $(args)

bench-explanations: $(VENV)/ready  ## Grad-CAM, occlusion and panels beside Captum and matplotlib
	@$(BIN)/python benchmarks/explanations.py $(args)

bench-looking: $(VENV)/ready  ## seconds of fine-tuning with the default callbacks and with none
	@$(BIN)/python benchmarks/looking.py $(args)

bench-scaling: $(VENV)/ready  ## time and memory a picture from 1,000 to 1,000,000 of them (args="--sizes ...")
	@$(BIN)/python benchmarks/scaling.py $(args)

bench-gpu: $(VENV)/ready  ## training steps on an NVIDIA GPU beside a plain torch loop (args="--quick")
	@$(BIN)/python benchmarks/gpu.py $(args)

lint: $(VENV)/ready  ## style, common mistakes, and types of the public modules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(INSTALL_COPY)
	@$(BIN)/python -m mypy

format: $(VENV)/ready
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

docs: $(VENV)/docs  ## the site with guides and API reference, in build/site/
	@$(INSTALL_COPY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "the site is in build/site/index.html"

$(VENV)/docs: $(VENV)/ready
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints requirements.lock --requirements pyproject.toml --extra docs
	@touch $@

setup: $(VENV)/ready  ## only the set-up

# The lock pins every extra of pyproject.toml; here it only says which versions, and dev alone is
# installed (`--exact`: what no longer belongs goes). It names the CUDA build's libraries, of which
# the small build wants none. Compiled at once: where Python may not write its caches, every start
# would compile torch anew, for half a minute.
$(VENV)/ready: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "convlens: $(PYTHON) is missing; install Python 3.11 or later, or say PYTHON=…" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "convlens: $(PYTHON) is older than 3.11; say PYTHON=… with a later one" >&2; exit 2; }
	@echo "setting up $(VENV) (once) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --exact --compile-bytecode --python $(BIN)/python $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND)) --constraints requirements.lock --requirements pyproject.toml --extra dev
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@
