# Each target makes its own environment: `make demo` and `make test` work on a fresh machine.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Optional parts to install; with EXTRAS=[eval-native] pip builds llama.cpp here, which takes ten minutes or more.
EXTRAS ?= [eval]

# Processes that tests are shared between, a file each at a time; 0 for none.
WORKERS ?= auto

# More options of pytest.
OPTIONS ?=

.PHONY: demo test real docs test-slow test-nojit test-oldest bench lint clean

demo: $(VENV)/.installed
	$(BIN)/truebits demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(OPTIONS)

# The models that the README speaks of, fetched.
real: $(VENV)/.test
	$(BIN)/python -m pytest -m slow tests/test_readme.py -k real

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

# The kernels as plain Python: where their coverage is measured.
test-nojit: $(VENV)/.test
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest tests/test_native.py tests/test_rounding.py tests/test_scaling.py tests/test_halves.py tests/test_blocks.py tests/test_dequantizing.py tests/test_quantizing.py --cov=truebits_native --cov-report=term-missing:skip-covered

# The quick tests with the oldest version of each dependency that pyproject.toml claims.
test-oldest:
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(VENV)-oldest/bin/pip install --quiet --disable-pip-version-check --editable . $$($(PYTHON) tools/oldest_requirements.py)
	$(VENV)-oldest/bin/pip install --quiet --disable-pip-version-check --group test $$($(PYTHON) tools/oldest_requirements.py)
	$(VENV)-oldest/bin/python -m pytest tests -n $(WORKERS) --dist loadfile

bench: $(VENV)/.test
	mkdir -p bench/results
	$(BIN)/python -m pytest bench -q -m "" --benchmark-enable --benchmark-json=bench/results/latest.json
	$(BIN)/python bench/report.py bench/results/latest.json docs/benchmarks.md

lint: $(VENV)/.lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --editable ".$(EXTRAS)"
	touch $@

$(VENV)/.test: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --group test
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --group docs
	touch $@

$(VENV)/.lint: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --group lint
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-oldest .pytest_cache .hypothesis .mypy_cache .ruff_cache dist
