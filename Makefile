# Everything runs in .venv of this folder; the only things needed before are Python 3.11 and make.
PYTHON ?= python3.11
BIN := .venv/bin
WORKSPACE ?= ./work
# First light on a GPU: where its wheels and its table go, the Python there, and the Python that finds torch there.
WHEELS ?= ./gpu-wheels
OUT ?= ./gpu-table
GPU_PYTHON ?= 3.12
PYTHON3 ?= python3

.PHONY: venv smoke test test-cluster test-long gpu-wheels gpu lint format golden clean

venv: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[cluster,train,text,dev]'
	touch $@

smoke: venv
	$(BIN)/jobgen run smoke --local --workspace $(WORKSPACE)

test: lint
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not long"

test-cluster: venv
	$(BIN)/pytest -m "cluster and not long"

test-long: venv
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not alone"
	$(BIN)/pytest -m alone

gpu-wheels: venv
	$(BIN)/python -m tests.gpu.wheels $(WHEELS) --python $(GPU_PYTHON) $(if $(FLASH),--flash)

# Not `venv`: that machine has no network.
gpu:
	$(PYTHON3) -m tests.gpu $(OUT) --wheels $(WHEELS) $(GPU_FLAGS)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden: venv
	$(BIN)/pytest tests/golden --update-golden

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
