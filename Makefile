# A thin wrapper: everything here works without make as well, through pip, seglib and pytest (see README.md).

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed
SOURCES = seglib tests notebooks
# Tests of one file stay together; with more threads each, two processes would only stand in each other's way.
JOBS ?= 2
# Compiled tests are kept: recompiling them takes pytest longer than most of them take to run.
unexport PYTHONDONTWRITEBYTECODE
PARALLEL = OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test check coverage lab notebooks clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED)  ## install, run the four notebooks on the demo dataset
	$(BIN)/seglib demo

test: $(INSTALLED) lint  ## everything: lint, unit and browser tests, the notebooks by nbval
	$(PARALLEL) tests
	$(BIN)/pytest --nbval notebooks

check: $(INSTALLED) lint  ## lint and the quick tests alone
	$(PARALLEL) -m "not slow and not browser"

coverage: $(INSTALLED)  ## the quick tests, and the lines of seglib that they do not run
	$(PARALLEL) -m "not slow and not browser" --cov --cov-report=term-missing:skip-covered

lab: $(INSTALLED)  ## open JupyterLab on the notebooks
	exec $(BIN)/seglib lab

notebooks: $(INSTALLED)  ## execute the committed notebooks in place, in order; publish the report
	$(BIN)/jupyter nbconvert --execute --inplace --ExecutePreprocessor.record_timing=False --ExecutePreprocessor.store_widget_state=False \
		--ExecutePreprocessor.kernel_name=python3 --NotebookExporter.preprocessors=seglib.pipeline.drop_dead_widgets notebooks/0*.ipynb
	cp artifacts/runs/demo/failures/test/report.html docs/report.html

clean:  ## remove the environment and the caches (never data or runs)
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis

.PHONY: lint
lint: $(INSTALLED)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or newer is needed, but '$(PYTHON)' is: $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing into $(VENV): minutes and several GB, most of them for PyTorch."
	$(BIN)/pip install --quiet -e ".[test]"
	@touch $@
