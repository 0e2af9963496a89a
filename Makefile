PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq -c constraints.txt
MINUTES ?= 5

.PHONY: demo test test-slow venv check bench tables docs clean

demo: .venv/demo  ## install, tune the text-to-image model that ships for this machine, write demo/report.html
	$(BIN)/hasten tune builtin:shapes --minutes $(MINUTES) --out demo || [ $$? = 3 ]
	$(BIN)/python -m benchmarks.beside demo
	$(BIN)/hasten sample builtin:shapes --plan demo/plan.json --prompt "a red circle to the left of a blue square" --n 4 --gif --out demo/samples

test: .venv/all  ## everything that a change must pass, in a few minutes
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadscope -m "not slow"

test-slow: .venv/all  ## every test, those that take long too
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadscope

check: .venv/all  ## style, types, layers
	$(BIN)/ruff check --no-cache . && $(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest tests/test_layers.py

# Tables that need hours, MNIST or Chromium are left as they are; the last line names them, and
# `python -m benchmarks.run --list` says how each is measured.
bench: .venv/all  ## measure again, on this machine, what needs nothing but this repository
	$(BIN)/python -m benchmarks.run
	$(BIN)/python -m benchmarks.tables

docs: .venv/all  ## the site of docs/ with the API reference, in site/
	$(PIP) -e '.[docs]'
	$(BIN)/zensical build -f mkdocs.yml

venv: .venv/all  ## .venv with every extra

.venv/demo: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hasten needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade pip
	$(PIP) -e '.[tune,openvino,onnx]'
	@touch $@

.venv/all: .venv/demo
	$(PIP) -e '.[tune,train,dev]'
	@touch $@

clean:
	rm -rf .venv demo runs
