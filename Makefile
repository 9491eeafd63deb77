# `make help` lists the targets. Each of them sets up .venv on first use.
# Words after a target are passed to the command: make train exp=scratch data.size=96
# Without a GPU, the small build of torch is enough: make train TORCH_BACKEND=cpu

SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# all typed key=value words, as make quotes them, in one argument, which convlens splits again
WORDS = '--make=$(subst ','\'',$(MAKEOVERRIDES))'
# mypy and the API reference need an installed copy, in which callbacks/ is convlens.callbacks
INSTALL_COPY = rm -rf build && $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --target build/package .
COMMANDS := train resume eval explain predict export serve report audit review shortcuts compare runs models kernel lesson sweep plan lr-find split tensorboard
TARGETS := help setup lint format docs test test-slow kill fuzz bench bench-throughput bench-filters bench-explanations bench-looking bench-scaling bench-gpu proofs $(COMMANDS)

# report an unknown word at once: make itself would reach it, and fail, only after the training
UNKNOWN := $(filter-out $(TARGETS),$(MAKECMDGOALS))
ifneq ($(UNKNOWN),)
$(error $(firstword $(UNKNOWN)): no such target or key=value; `make help` lists the targets)
endif
# allow only one command, because each would also receive the other's words
ifneq ($(word 2,$(filter $(COMMANDS),$(MAKECMDGOALS))),)
$(error one command at a time, not: $(filter $(COMMANDS),$(MAKECMDGOALS)))
endif

.PHONY: $(TARGETS)
.DEFAULT_GOAL := help

# messages name commands as they were typed
$(COMMANDS): export CONVLENS_MAKE := 1

help:  ## list the targets
	@sed -n 's/^\([a-z][a-z-]*\):.*  ## \(.*\)/\1  \2/p' $(MAKEFILE_LIST) | awk -F'  ' '{printf "make %-18s %s\n", $$1, $$2}'

train: $(VENV)/ready  ## train a network: exp=NAME picks a recipe, key=value sets anything
	@$(BIN)/convlens train $(WORDS)

resume: $(VENV)/ready  ## continue a stopped run, as if it had never stopped: run=RUN_DIR
	@$(BIN)/convlens resume $(WORDS)

eval: $(VENV)/ready  ## compute the test results of a checkpoint: ckpt=FILE
	@$(BIN)/convlens eval $(WORDS)

explain: $(VENV)/ready  ## show the predicted classes and explanations of images: [image=PATH] [ckpt=FILE]
	@$(BIN)/convlens explain $(WORDS)

predict: $(VENV)/ready  ## write predictions.csv: each class's probability for images=DIR, from ckpt=FILE
	@$(BIN)/convlens predict $(WORDS)

export: $(VENV)/ready  ## export a network, as ONNX for example: ckpt=FILE format=onnx
	@$(BIN)/convlens export $(WORDS)

serve: $(VENV)/ready  ## open a local page on which to drop images: ckpt=FILE
	@$(BIN)/convlens serve $(WORDS)

report: $(VENV)/ready  ## write a whole run to one self-contained page: run=RUN_DIR
	@$(BIN)/convlens report $(WORDS)

audit: $(VENV)/ready  ## find a cut for wrong labels with a stated rate, by two more trainings: run=RUN_DIR
	@$(BIN)/convlens audit $(WORDS)

review: $(VENV)/ready  ## go through the suspected labels of a run in the browser: run=RUN_DIR
	@$(BIN)/convlens review $(WORDS)

shortcuts: $(VENV)/ready  ## search all images for shortcuts and for groups that are mistaken: ckpt=FILE
	@$(BIN)/convlens shortcuts $(WORDS)

compare: $(VENV)/ready  ## show runs="A B …" side by side on one page
	@$(BIN)/convlens compare $(WORDS)

runs: $(VENV)/ready  ## list all runs in one table: sort=test/accuracy, dir=outputs
	@$(BIN)/convlens runs $(WORDS)

models: $(VENV)/ready  ## list networks with their weights and what is explained of them: search=vit
	@$(BIN)/convlens models $(WORDS)

kernel: $(VENV)/ready  ## slide a kernel over image=FILE: kernel=NAME or numbers
	@$(BIN)/convlens kernel $(WORDS)

lesson: $(VENV)/ready  ## draw how networks learn: about=one_weight, network, activations, losses or softmax
	@$(BIN)/convlens lesson $(WORDS)

plan: $(VENV)/ready  ## show what exp=NAME would train and log, without training; or the layers of ckpt=FILE
	@$(BIN)/convlens plan $(WORDS)

sweep: $(VENV)/ready  ## search for good values in many runs: space="{KEY: VALUES, …}" trials=20
	@$(BIN)/convlens sweep $(WORDS)

lr-find: $(VENV)/ready  ## plot the loss of exp=NAME over rising learning rates
	@$(BIN)/convlens lr-find $(WORDS)

split: $(VENV)/ready  ## divide the class folders of src=DIR into train/validation/test in dst=DIR
	@$(BIN)/convlens split $(WORDS)

tensorboard: $(VENV)/ready  ## start TensorBoard for all runs in outputs/, with every step of every image
	@$(BIN)/convlens tensorboard $(WORDS)

# up to four single-threaded processes; args="-n0 --pdb" uses only one
test: $(VENV)/ready  ## run the tests, in less than eight minutes; args="-k captum" selects some
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses=4 --dist=worksteal $(args)

test-slow: $(VENV)/ready  ## run the slow tests; args="-k ddp" selects some
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n logical --maxprocesses=4 --dist=worksteal $(args)

kill: $(VENV)/ready  ## kill runs at random moments and resume them (args="--moments 20 --seed 1")
	@$(BIN)/python tests/support/kill.py $(args)

fuzz: $(VENV)/ready  ## test with hostile input, 10,000 cases of each kind (args="--cases 10000 --seed 0 --only NAME")
	@$(BIN)/python tests/robustness/fuzz/run.py $(args)

bench: $(VENV)/ready  ## run all benchmarks in one table: beside other libraries, or on a GPU as bench-gpu (args="--rows NAME,… --quick --device cpu")
	@$(BIN)/python benchmarks/bench.py $(args)

bench-throughput: $(VENV)/ready  ## compare images/s with the Keras recipe (args="--task ...")
	@$(BIN)/python benchmarks/throughput.py $(args)

bench-filters: $(VENV)/ready  ## compare filter pictures with drawing one at a time through all of VGG16, and with lucent
	@$(BIN)/python benchmarks/filters.py $(args)

bench-explanations: $(VENV)/ready  ## compare Grad-CAM, occlusion and panels with Captum and matplotlib
	@$(BIN)/python benchmarks/explanations.py $(args)

bench-looking: $(VENV)/ready  ## compare the seconds of fine-tuning with and without the default callbacks
	@$(BIN)/python benchmarks/looking.py $(args)

bench-scaling: $(VENV)/ready  ## measure time and memory per image, from 1,000 to 1,000,000 images (args="--sizes ...")
	@$(BIN)/python benchmarks/scaling.py $(args)

bench-gpu: $(VENV)/ready  ## compare training on an NVIDIA GPU with plain loops, in at most eight minutes (args="--quick --sections NAME,…")
	@$(BIN)/python benchmarks/gpu.py $(args)

proofs: $(VENV)/ready  ## count how often alarms speak rightly and wrongly, in 120 short runs (args="--seeds 3 --honest 9")
	@$(BIN)/python benchmarks/alarms.py $(args)

lint: $(VENV)/ready  ## check style, common mistakes, and types of the API and the config
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(INSTALL_COPY)
	@$(BIN)/python -m mypy

format: $(VENV)/ready  ## fix style and common mistakes
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

docs: $(VENV)/docs  ## build the site with guides and API reference in build/site/
	@$(INSTALL_COPY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "the site is in build/site/index.html"

$(VENV)/docs: $(VENV)/ready
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints requirements.lock --requirements pyproject.toml --extra docs
	@touch $@

setup: $(VENV)/ready  ## only set up .venv

# The lock pins the versions for every extra in pyproject.toml, and of the CUDA libraries, which the
# small build does not need. Here it only constrains versions: `dev` alone is installed, and
# `--exact` removes all other packages. Bytecode is compiled now: where Python cannot write its
# caches, every start would otherwise spend half a minute compiling torch again.
$(VENV)/ready: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "convlens: $(PYTHON) is missing; install Python 3.11 or later, or set PYTHON=…" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "convlens: $(PYTHON) is older than 3.11; set PYTHON=… to a later one" >&2; exit 2; }
	@echo "setting up $(VENV) (once) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --exact --compile-bytecode --python $(BIN)/python $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND)) --constraints requirements.lock --requirements pyproject.toml --extra dev
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q src callbacks
	@touch $@
