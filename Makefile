# Every target makes the environment it needs. PROFILE, DATA_DIR and RESULTS_DIR can be given:
#   make run PROFILE=laptop DATA_DIR=/data
PYTHON ?= python3
PROFILE ?= smoke
DATA_DIR ?=
RESULTS_DIR ?= results
BIN := .venv/bin

.PHONY: reproduce run book test test-slow test-all benchmark publish clean

reproduce: run  ## the whole way on the embedded images, then the book

run: .venv/installed  ## train, evaluate, execute the notebooks, build the book
	$(BIN)/python -m robust_transfer run --profile $(PROFILE) --data-dir "$(DATA_DIR)" --results-dir $(RESULTS_DIR)

book: .venv/installed  ## the published book, from the records in book/results
	$(BIN)/python -m robust_transfer run --published --results-dir $(RESULTS_DIR)

publish: .venv/installed  ## copy finished records to book/results
	$(BIN)/python -m robust_transfer publish --profile $(PROFILE) --results-dir $(RESULTS_DIR)

test: .venv/installed-dev  ## lint, and all tests but the slow ones
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -m "not slow"

test-slow: .venv/installed-dev  ## the rest: real sizes, the published book, every page for all readers
	$(BIN)/python -m pytest -m slow

test-all: test test-slow

benchmark: .venv/installed-benchmarks  ## side by side with other libraries; writes book/benchmarks
	$(BIN)/python -m benchmarks --data-dir "$(DATA_DIR)" --compile

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

.venv/installed-benchmarks: benchmarks/requirements.txt .venv/installed-dev
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/requirements.txt
	touch $@

clean:
	rm -rf _build book/_executed book/_static/generated
