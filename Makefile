# Every target makes the environment it needs. PROFILE, DATA_DIR and RESULTS_DIR can be given:
#   make run PROFILE=laptop DATA_DIR=/data
# TORCH=cpu takes PyTorch from its own index, without CUDA: give it always, or export it.
PYTHON ?= python3
PROFILE ?= smoke
DATA_DIR ?=
RESULTS_DIR ?= results
TORCH ?=
BIN := .venv/bin

.PHONY: reproduce run book pdf verify cluster test test-slow test-all benchmark publish lock clean

reproduce: run  ## the whole way on the embedded images, then the book

run: .venv/installed  ## train, evaluate, execute the notebooks, build the book
	$(BIN)/python -m robust_transfer run --profile "$(PROFILE)" --data-dir "$(DATA_DIR)" --results-dir "$(RESULTS_DIR)"

book: .venv/installed  ## the published book, from the records in book/results
	$(BIN)/python -m robust_transfer run --published --results-dir "$(RESULTS_DIR)"

pdf: .venv/installed  ## the book that was built last as one PDF; asks for Debian's chromium
	$(BIN)/jupyter-book build --builder singlehtml .
	cp _build/singlehtml/book/intro.html _build/singlehtml/whole.html  # its links begin here
	chromium --headless --no-sandbox --no-pdf-header-footer --virtual-time-budget=10000 \
	  --print-to-pdf=_build/robust-transfer.pdf _build/singlehtml/whole.html

CELL ?= pgd-pgd-all wb_pgd
verify: .venv/installed  ## attack a published network again, image by image: CELL='pgd-pgd-all wb_pgd'
	$(BIN)/python -m robust_transfer verify --cell "$(CELL)" --data-dir "$(DATA_DIR)" \
	  $(if $(filter file,$(origin PROFILE)),,--profile "$(PROFILE)")

PLACE ?= local
cluster: .venv/installed .venv/cluster/installed  ## what run does, as jobs: PLACE=slurm
	.venv/cluster/bin/snakemake --profile workflow/profiles/$(PLACE) --config \
	  profile="$(PROFILE)" data_dir="$(DATA_DIR)" results_dir="$(RESULTS_DIR)"

publish: .venv/installed  ## copy finished records to book/results
	$(BIN)/python -m robust_transfer publish --profile "$(PROFILE)" --results-dir "$(RESULTS_DIR)"

test: .venv/installed-dev  ## lint, and all tests but the slow ones
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -m "not slow"

test-slow: .venv/installed-dev .venv/cluster/installed  ## the rest: real sizes, the published book, every page for all readers
	$(BIN)/python -m pytest -m slow

test-all: test test-slow

benchmark: .venv/installed-benchmarks  ## side by side with other libraries; writes book/benchmarks
	$(BIN)/python -m benchmarks --data-dir "$(DATA_DIR)" --compile

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
# Only files whose hashes are in the lock. None is built: what builds would come unlocked.
LOCKED := $(PIP) --only-binary :all: --require-hashes -r

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
ifeq ($(TORCH),cpu)  # a build of the same version counts as installed below; no hashes: PyPI lacks it
	$(PIP) --index-url https://download.pytorch.org/whl/cpu \
	  $$(grep -oE '^torch(vision)?==[^ ]+' requirements.lock)
	awk '/^[^ ]/ {keep = !/^(cuda|nvidia)-|^triton=/} keep' requirements.lock > .venv/cpu.lock
	$(LOCKED) .venv/cpu.lock
else
	$(LOCKED) requirements.lock
endif
	$(PIP) --no-build-isolation -e .
	touch $@

.venv/installed-dev: requirements-dev.lock .venv/installed
	$(LOCKED) requirements-dev.lock
	touch $@

.venv/installed-benchmarks: benchmarks/requirements.lock .venv/installed-dev
	$(LOCKED) benchmarks/requirements.lock
	touch $@

# One package has no wheel; what builds it is in the lock, too, and so comes first.
IN_CLUSTER := .venv/cluster/bin/$(subst .venv/bin/,,$(LOCKED))
.venv/cluster/installed: workflow/requirements.lock
	$(PYTHON) -m venv --clear .venv/cluster
	awk '/^[^ ]/ {keep = !/^connection-pool=/} keep' workflow/requirements.lock > .venv/cluster/wheels.lock
	$(IN_CLUSTER) .venv/cluster/wheels.lock
	$(IN_CLUSTER) workflow/requirements.lock --no-binary connection-pool --no-build-isolation
	touch $@

# An environment of its own: a lock that no longer installs can still be renewed. The lock for the
# tests leaves out what torch brings (--excludes), so that it never asks for CUDA.
UV_VERSION := 0.13.9
COMPILE := UV_CUSTOM_COMPILE_COMMAND="make lock" .venv/lock/bin/uv pip compile --quiet --upgrade \
  --universal --python-version 3.11 --generate-hashes --only-binary :all: --annotation-style line

lock:  ## what requirements*.txt ask for and all that they bring, the newest that fits, with hashes
	$(PYTHON) -m venv --clear .venv/lock
	.venv/lock/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(COMPILE) requirements.txt -o requirements.lock
	$(COMPILE) requirements-dev.txt -c requirements.lock --excludes requirements.txt \
	  -o requirements-dev.lock
	$(COMPILE) --no-deps benchmarks/requirements.txt -o benchmarks/requirements.lock
	$(COMPILE) --no-binary connection-pool workflow/requirements.txt -o workflow/requirements.lock
	rm -r .venv/lock

clean:
	rm -rf _build book/_executed book/_static/generated
