# Each target alone sets up all it needs: `make demo` on a fresh machine runs the main job, `make test` the tests.
VENV := .venv
BIN := $(VENV)/bin

OLDEST := .venv-oldest
NEWEST := .venv-newest
PYTEST := -m pytest --numprocesses auto --dist worksteal

.PHONY: demo test test-oldest test-newest docs lint

demo: $(VENV)/ready
	$(BIN)/python train.py +compress=drl_quant $$($(BIN)/python tools/demo_exporter.py)

test: $(VENV)/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) --cov

# The tests on the lowest versions of the dependencies that pyproject.toml promises, and on the newest that there are.
test-oldest: $(OLDEST)/ready
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python $(PYTEST)

test-newest: $(NEWEST)/ready
	OMP_NUM_THREADS=1 $(NEWEST)/bin/python $(PYTEST)

docs: $(VENV)/ready-dev
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build

lint: $(VENV)/ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/ready: pyproject.toml
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[onnx]'
	touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(BIN)/pip install --quiet --editable '.[dev,ray,tests]'
	touch $@

$(OLDEST)/ready: pyproject.toml
	python3 -m venv --clear $(OLDEST)
	$(OLDEST)/bin/pip install --quiet uv
	$(OLDEST)/bin/uv pip compile --quiet --resolution lowest-direct --output-file $(OLDEST)/lowest.txt pyproject.toml
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST) --requirements $(OLDEST)/lowest.txt
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST) --constraints $(OLDEST)/lowest.txt --editable '.[dev,ray]'
	touch $@

$(NEWEST)/ready: pyproject.toml
	python3 -m venv --clear $(NEWEST)
	$(NEWEST)/bin/pip install --quiet --upgrade --upgrade-strategy eager --editable '.[dev,ray,tests]'
	touch $@
