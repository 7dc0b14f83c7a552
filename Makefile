# `make demo` trains, evaluates, exports and parses; `make test` checks everything. Both set up what they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# The plain package; a wider range would let pip take a build with gigabytes of CUDA.
TORCH := torch==2.13.0
# Thousands of files that nothing here imports need no compiling; Python compiles the others when it imports them, and
# keeps what it compiled. Without that, every process of a test would take six seconds more to start.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: install demo test lint clean clean-trainings

$(BIN)/framefill: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $@

install: $(BIN)/framefill

demo: install
	$(BIN)/python -m scripts.demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest --numprocesses logical --dist loadgroup

clean:
	rm -rf $(VENV) *.egg-info

# All checkpoints and corpora that were made here.
clean-trainings:
	rm -rf runs corpora
