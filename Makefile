# Everything runs in .venv of this folder; the only things needed before are Python 3.11 and make.
PYTHON ?= python3.11
BIN := .venv/bin
WORKSPACE ?= ./work
# First light on a GPU: where its wheels and its table go, the Python there, and the Python that finds torch there.
WHEELS ?= ./gpu-wheels
OUT ?= ./gpu-table
GPU_PYTHON ?= 3.12
PYTHON3 ?= python3
# Images: what builds them, and for a release their names and their base with its digest.
DOCKER ?= docker
REGISTRY ?=
BASE ?= python:3.11-slim-bookworm
IMAGE ?= minima:cpu

.PHONY: venv smoke test test-cluster test-long gpu-wheels gpu lint format golden release sbom clean

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

# All three images, from what is committed, on a base that cannot change, tagged with the commit.
release:
	@test -n "$(REGISTRY)" || { echo "REGISTRY: missing; such as REGISTRY=registry.example.com/team"; exit 1; }
	@echo "$(BASE)" | grep -Eq '@sha256:[0-9a-f]{64}$$' || { echo "BASE: found $(BASE), which may change; its digest is" \
		"what \`docker buildx imagetools inspect $(BASE)\` says: BASE=$(BASE)@sha256:…"; exit 1; }
	@test -z "$$(git status --porcelain)" || { echo "not committed: $$(git status --porcelain | head -3)"; exit 1; }
	for name in train cpu jobgen; do \
		file=images/$$name.Dockerfile; test -f $$file || file=Dockerfile; commit=$$(git rev-parse HEAD); \
		$(DOCKER) build -f $$file --build-arg BASE=$(BASE) --build-arg MINIMA_COMMIT=$$commit $(BUILD_FLAGS) \
			-t $(REGISTRY)/minima:$$name-$$commit . || exit 1; done

sbom:
	$(DOCKER) build -f images/sbom.Dockerfile --build-arg IMAGE=$(IMAGE) --output sbom .

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
