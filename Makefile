# Every target sets up what it needs in .venv, and is quick the second time.
#   PYTHON        the Python that makes the virtual environment
#   TORCH_VERSION which torch; `newest` takes the newest there is
#   TORCH_INDEX   where torch comes from, such as https://download.pytorch.org/whl/cpu for a small build without CUDA
PYTHON ?= python3
TORCH_VERSION ?= 2.13.0
TORCH_INDEX ?=

VENV := .venv
RUN := $(VENV)/bin/python
TORCH := $(VENV)/.torch-$(TORCH_VERSION)
READY := $(VENV)/.ready
PEERS := $(VENV)/.peers
INTEGRATIONS := $(VENV)/.integrations
DOCS := $(VENV)/.docs
GPU_MACHINE := .venv-gpu-machine
SANITIZED := build/sanitized
CSRC := $(wildcard csrc/*.h csrc/cpu/*.h csrc/cpu/*.cpp csrc/cuda/*)

.PHONY: help demo test test-all test-integrations test-gpu-machine bench gpu-check lint docs sanitize wheel clean

help:
	@echo "make demo      set up, then train, measure, search and compare on real images"
	@echo "make test      set up, then run the tests: minutes"
	@echo "make test-all  the same, and every further case"
	@echo "make test-integrations  those with Lightning, transformers and torch-pruning, which it installs; a few minutes"
	@echo "make bench     the benchmarks, with a table in benchmarks/results"
	@echo "make gpu-check all that only a GPU can show: values, times, sanitizers; with a GPU, in nine minutes"
	@echo "make test-gpu-machine  the tests with what such a machine has: torch 2.11 for CUDA 13, Triton 3.6, NumPy from 2.4"
	@echo "make lint      formatting, lint, types, and which module may import which"
	@echo "make docs      the documentation, a site in build/site"
	@echo "make sanitize  the C++ kernels under the address and undefined-behaviour sanitizers"
	@echo "make wheel     a wheel in dist, with the CPU library inside"
	@echo "make clean     remove the virtual environment and what was built"

demo: $(READY)
	$(VENV)/bin/ckrm demo

PYTEST = OMP_NUM_THREADS=2 $(RUN) -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal --benchmark-disable

test: $(READY)
	$(PYTEST) -m "not exhaustive"

test-all: test
	$(PYTEST) -m exhaustive

test-integrations: $(INTEGRATIONS)
	$(PYTEST) tests/integrations tests/docs/test_integrations_page.py

# In a virtual environment of its own, of 5 GB; the package is not installed there, as it is not on a GPU machine.
test-gpu-machine: RUN := $(GPU_MACHINE)/bin/python
test-gpu-machine: $(GPU_MACHINE)/.ready
	$(PYTEST) -m "not exhaustive"

bench: $(READY) $(PEERS)
	mkdir -p build
	$(RUN) -m pytest benchmarks --benchmark-only --benchmark-json=build/benchmarks.json
	$(RUN) benchmarks/report.py build/benchmarks.json

# Needs no network: with the packages that are there, in .venv or beside PYTHON.
gpu-check:
	$(if $(wildcard $(RUN)),$(RUN),$(PYTHON)) benchmarks/gpu_check.py

lint: $(READY)
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache --no-logo
	$(VENV)/bin/clang-format --dry-run --Werror $(filter %.h %.cpp %.cu %.cuh,$(CSRC)) $(wildcard tests/cpp/*)

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build
	@echo "open build/site/index.html"

# The kernels alone, then every operator inside Python.
sanitize: $(READY)
	$(MAKE) --jobs=$$(nproc) $(SANITIZED)/check_kernels $(SANITIZED)/libckrm_cpu.so
	$(SANITIZED)/check_kernels
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
		ASAN_OPTIONS=detect_leaks=0 $(RUN) tests/sanitized.py $(SANITIZED)/libckrm_cpu.so

wheel: $(READY)
	$(RUN) -m pip wheel --no-build-isolation --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) $(GPU_MACHINE) build dist *.egg-info ckrm_kernels/lib

$(TORCH):
	$(PYTHON) -c 'import sys; sys.exit("make PYTHON=...: 3.10 or newer is needed" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch$(if $(filter newest,$(TORCH_VERSION)),,==$(TORCH_VERSION))
	touch $@

# The build sees the torch that will run it: no isolation.
$(READY): $(TORCH) pyproject.toml setup.py ckrm_kernels/build_config.py $(CSRC)
	$(RUN) -m pip install "setuptools>=77" ninja
	$(RUN) -m pip install --no-build-isolation --editable ".[dev]"
	touch $@

$(GPU_MACHINE)/.ready: tests/gpu_machine.txt
	$(PYTHON) -m venv $(GPU_MACHINE)
	$(GPU_MACHINE)/bin/python -m pip install --requirement tests/gpu_machine.txt
	touch $@

# What the benchmarks compare with.
$(PEERS): $(READY)
	$(RUN) -m pip install --no-build-isolation --editable ".[bench]"
	touch $@

# What ckrm_kernels/integrations is called by.
$(INTEGRATIONS): $(READY)
	$(RUN) -m pip install --no-build-isolation --editable ".[lightning,transformers,torch-pruning]"
	touch $@

$(DOCS): $(READY)
	$(RUN) -m pip install --no-build-isolation --editable ".[docs]"
	touch $@

# Objects with sanitizers. Python's own leaks are not looked for; within the kernels alone, leaks are.
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all
TORCH_PATH = $(shell $(RUN) -c "import torch; print(torch.__path__[0])")
CONFIG = $(shell $(RUN) -c "import runpy; print(*runpy.run_path('ckrm_kernels/build_config.py')['CPU'].compile_flags)")
KERNELS := $(patsubst csrc/cpu/%.cpp,$(SANITIZED)/%.o,$(wildcard csrc/cpu/kernels_*.cpp))
OPERATORS := $(patsubst csrc/cpu/%.cpp,$(SANITIZED)/%.o,$(filter-out csrc/cpu/kernels_%,$(wildcard csrc/cpu/*.cpp)))
vpath %.cpp csrc/cpu tests/cpp

$(SANITIZED)/%.o: %.cpp $(CSRC) $(READY)
	mkdir -p $(SANITIZED)
	$(CXX) -std=c++20 $(CONFIG) -UNDEBUG -O1 -g -fno-omit-frame-pointer -fPIC $(SANITIZE) -Icsrc \
		-isystem $(TORCH_PATH)/include -c $< -o $@

$(SANITIZED)/check_kernels: $(SANITIZED)/check_kernels.o $(SANITIZED)/wide_vectors.o $(KERNELS)
	$(CXX) $(SANITIZE) $^ -o $@

$(SANITIZED)/libckrm_cpu.so: $(OPERATORS) $(KERNELS)
	$(CXX) $(SANITIZE) -shared $^ -L$(TORCH_PATH)/lib -ltorch_cpu -lc10 -o $@
