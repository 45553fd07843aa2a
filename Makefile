# Each target does its own set-up. A new machine needs Python 3.11 or later, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-servers lint bench docs clean

help:  ## Show the targets.
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/'

setup: $(READY)  ## Make .venv and install Nightwarden with its tools.

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or later is needed"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	@touch $(READY)

demo: $(READY)  ## Run the whole job on simulated transactions, in demo/.
	rm -rf demo
	$(BIN)/nightwarden demo demo

test: $(READY)  ## Run the tests.
	$(BIN)/python -m pytest -n 2

test-servers: $(READY)  ## Install the servers that tests start, beside PostgreSQL: an object store.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group served

lint: $(READY)  ## Check style, types and the direction of imports.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## Measure beside LightGBM and PyOD on your copies of the data: make bench DATA=folder ADBENCH=folder.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group bench
	$(BIN)/python benchmarks/features.py --data $(DATA) --book
	$(BIN)/python benchmarks/handbook.py --data $(DATA)
	$(BIN)/python benchmarks/handbook.py --data $(DATA) --label-free
	$(BIN)/python benchmarks/novel_fraud.py --data $(DATA)
	$(BIN)/python benchmarks/adbench.py --data $(ADBENCH)
	$(BIN)/python benchmarks/throughput.py

docs: $(READY)  ## Write the generated pages of docs/ and prefect.yaml.
	$(BIN)/python -c 'from pathlib import Path; from warehouse.schema import describe_markdown as d; Path("docs/schema.md").write_text(d())'
	$(BIN)/python -c 'from pathlib import Path; from tasks.features import describe_markdown as d; Path("docs/features.md").write_text(d())'
	$(BIN)/python -c 'from pathlib import Path; from flows.deployments import describe_yaml as d; Path("prefect.yaml").write_text(d())'

clean:  ## Remove what the targets made.
	rm -rf demo .venv
