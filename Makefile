# Everything runs in .venv, made on first use. PYTHON=python3.12 make ... takes another Python.
PYTHON ?= python3
ARGUMENTS ?=
BIN := .venv/bin
NATIVE := CMakeLists.txt pyproject.toml $(wildcard src/vivace/native/*.cpp src/vivace/native/*.h)

.PHONY: serve test slow check sanitize bench clean

serve: .venv/serve.stamp  ## serve the embedded model on http://127.0.0.1:8000
	$(BIN)/vivace serve $(ARGUMENTS)

test: .venv/develop.stamp  ## the test suite
	$(BIN)/python -m pytest $(ARGUMENTS)

slow: .venv/develop.stamp  ## the long tests
	$(BIN)/python -m pytest -m slow --timeout 1800 $(ARGUMENTS)

check: .venv/develop.stamp  ## lint and types
	$(BIN)/ruff check src tests benchmarks training
	$(BIN)/ruff format --check src tests benchmarks training
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

sanitize: .venv/develop.stamp  ## the native core under ASan with UBSan, then under TSan
	for kind in address,undefined thread; do \
	  $(BIN)/cmake -S . -B build/$$kind -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	    -DCMAKE_BUILD_TYPE=None -DVIVACE_SANITIZE=$$kind && \
	  $(BIN)/ninja -C build/$$kind check_core && build/$$kind/check_core || exit 1; \
	done

bench: .venv/develop.stamp  ## this machine's figures for the embedded model
	$(BIN)/vivace bench engine $(ARGUMENTS)

clean:
	rm -rf .venv build

.venv/serve.stamp: $(NATIVE) | .venv
	$(BIN)/pip install --editable .
	touch $@

.venv/develop.stamp: $(NATIVE) | .venv
	$(BIN)/pip install torch==2.13.0
	$(BIN)/pip install --editable '.[test,check]'
	touch $@ .venv/serve.stamp

.venv:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --upgrade pip
