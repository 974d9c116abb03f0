# Everything from a clean clone: `make demo` and `make test` set up what they need. Python 3.11 or newer, make, no more.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test slow bench clean

help:            ## this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	# torch first and by its pinned version: a range would let pip choose a build with gigabytes of CUDA
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/pip install --quiet torch
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/pip install --quiet --editable '.[dev]'
	touch $(READY)

demo: $(READY)   ## the main job on embedded data: three fits of one network, a table, figures in out/
	$(BIN)/python -m models.lenet --data digits

test: $(READY)   ## lint, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

slow: $(READY)   ## the long tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow -n 2

bench: $(READY)  ## what a step costs, against the same by hand
	$(BIN)/python -m tests.benchmarks.bench_svi --threads 2
	$(BIN)/python -m tests.benchmarks.bench_svi --threads 1
	$(BIN)/python -m tests.benchmarks.bench_sgmcmc --threads 2
	$(BIN)/python -m tests.benchmarks.bench_sgmcmc --threads 1
	$(BIN)/python -m tests.benchmarks.bench_chains --threads 2
	$(BIN)/python -m tests.benchmarks.bench_convolution_bias
	$(BIN)/python -m tests.benchmarks.bench_gradients
	$(BIN)/python -m tests.benchmarks.bench_shrink
	$(BIN)/python -m tests.benchmarks.bench_coding
	$(BIN)/python -m tests.benchmarks.bench_forward
	$(BIN)/python -m tests.benchmarks.bench_latent --threads 2

clean:           ## remove what was set up and written
	rm -rf $(VENV) out .pytest_cache .ruff_cache .mypy_cache .hypothesis
