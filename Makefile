# Set-up and the common commands. `make run` trains the quickstart, `make test` is what CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-test
JOBS ?= 2

.PHONY: run test gpu test-slow check-breaks test-slurm mutants chaos chaos-storage check format clean help

help:
	@echo "make run        set up and train the quickstart recipe"
	@echo "make test       set up, check format, lint and types, and run the tests"
	@echo "make test-slow  the heavier tests; writes tests/slow_report.md"
	@echo "make gpu        times of the 1B recipes on the GPU that is there, beside a plain compiled GPT"
	@echo "make check-breaks  wrong rules planted in one parameter at a time; ten minutes"
	@echo "make test-slurm  every ending on a real Slurm; writes tests/slurm_report.md; 20 minutes, as root"
	@echo "make mutants    change the core in small ways, and see that tests notice; half an hour"
	@echo "make chaos      N=500 SEED=1: hundreds of faults at random instants over all engines; an hour"
	@echo "make chaos-storage  the same for damaged files, full disks, cut-off attempts and object stores"
	@echo "make format     rewrite the code in the house format"
	@echo "make clean      remove the virtual environment and runs"

run: $(STAMP)
	$(BIN)/launch recipes/s4d-lm-quickstart.yaml

test: $(TEST_STAMP) check
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: $(TEST_STAMP)
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "slow and not slurm and not breaks" \
		--report tests/slow_report.md

gpu: $(STAMP)
	PYTHONPATH=. $(BIN)/python benchmarks/gpu.py

check-breaks: $(TEST_STAMP)
	$(BIN)/pytest -n $(JOBS) -m breaks --report tests/breaks_report.md

test-slurm: $(TEST_STAMP)
	$(BIN)/pytest -m slurm --report tests/slurm_report.md

mutants: $(TEST_STAMP)
	$(BIN)/python -m tests.mutants --report tests/mutants/report.md

chaos: $(TEST_STAMP)
	$(BIN)/python -m tests.chaos --faults $(or $(N),500) --seed $(or $(SEED),1) --report tests/chaos/report.md

chaos-storage: $(TEST_STAMP)
	$(BIN)/python -m tests.chaos --storage --faults $(or $(N),500) --seed $(or $(SEED),1) \
		--report tests/chaos/storage_report.md

check: $(TEST_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(TEST_STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(STAMP): pyproject.toml constraints.txt
	@echo "setting up $(VENV): about two minutes the first time, nothing the next"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@CUDA=$(CUDA) .ci/torch-guard $(BIN)/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[plot]'
	touch $@

$(TEST_STAMP): $(STAMP)
	@echo "adding what the tests need"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	# The reference for muP, without torchvision and plotting, which it asks for and its rules do not use
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps mup==1.0.0
	touch $@

clean:
	rm -rf $(VENV) runs mlruns mlflow.db
