# make run    set up, simulate a mosaic, run the pipeline on it, print where the report is
# make test   set up, run every test
# make benchmark   the paper's experiments, small, with every method that is here
# make docs   the documentation's site, tutorials run
# make bench  set up, measure speeds; fails where one is 15 % worse than committed (benchmarks/results/speed.tsv)
# PYTHON names the interpreter to build on (CPython 3.11, 3.12 or 3.13).
SHELL  := /bin/bash
PYTHON ?= python3
BIN    := .venv/bin
RUN    ?= results
CHAOS  ?= /tmp/multivi-nf-chaos

.PHONY: audit benchmark docs docs-full run test setup macs3 motifs peers images push lint test-real test-deploy chaos clean bench

run: setup
	@$(BIN)/python tools/run.py --outdir $(RUN)

setup:
	@$(PYTHON) tools/setup.py

# Builds MACS3 once (about 4 minutes, needs a C compiler); without one the tests that call peaks say so.
test: setup
	@if command -v gcc > /dev/null; then $(PYTHON) tools/setup.py macs3; else echo 'make: no gcc, so MACS3 is not built'; fi
	@$(BIN)/pytest -m 'not real and not deploy' $(PYTEST)

# What each set scores is printed at the end (-rP)
test-real: setup
	@$(BIN)/pytest -m real -raP $(PYTEST)

# First what starts no scheduler and no container; .ci/run has two of those at a time (QUIETLY).
QUIET := tests/deploy/test_profiles.py tests/deploy/test_site.py tests/deploy/test_tools.py
QUIET += tests/chaos/test_attacks.py tests/chaos/test_hostile.py tests/chaos/test_machines.py
test-deploy: setup
	@bash tests/deploy/provision.sh
	@$(if $(QUIETLY),OMP_NUM_THREADS=1) $(BIN)/pytest -m deploy $(QUIET) $(QUIETLY) $(PYTEST); quiet=$$?; \
	    $(BIN)/pytest -m deploy tests/deploy tests/chaos $(QUIET:%=--ignore=%) $(PYTEST); rest=$$?; \
	    case "$$quiet $$rest" in "0 5"|"5 0") exit 0;; 0*) exit $$rest;; 5*) exit $$rest;; esac; exit $$quiet # 5: no test was asked for

# Every step killed, on a full and on a failing disk, at twenty random moments: about twenty minutes, root (docs/benchmarks/chaos.md).
chaos: setup
	@$(BIN)/python -m tests.chaos.sweep --folder $(CHAOS) --moments 20 --table docs/chaos.tsv
	@$(BIN)/python -m tests.chaos.nextflow --folder $(CHAOS)-nextflow --kills 20 --table docs/chaos.tsv

# The documentation's site in docs/_build/html. Tutorials run; what they gave is kept until code or page changes.
docs: setup
	@$(PYTHON) tools/setup.py docs
	@$(BIN)/sphinx-build -b html -W --keep-going -q $(SPHINX) docs docs/_build/html
	@echo 'docs: the site is docs/_build/html/index.html'

# The same, and every tutorial runs.
docs-full:
	@MULTIVI_NF_DOCS_EXECUTE=force $(MAKE) --no-print-directory docs SPHINX=-E

bench: setup
	@$(BIN)/python -m benchmarks.speed.suite $(BENCH)

macs3:
	@$(PYTHON) tools/setup.py macs3

# The paper's five experiments on a small simulated mosaic, with every Python method (and Seurat where R has it)
benchmark: setup
	@$(PYTHON) tools/setup.py peers
	@$(BIN)/python tools/run.py --workflow benchmark --outdir results_benchmark $(BENCHMARK)

motifs:
	@$(PYTHON) tools/setup.py motifs

peers:
	@$(PYTHON) tools/setup.py peers

images: setup
	@bash tools/images.sh build
	@bash tools/images.sh archive
	@bash tools/images.sh sbom

push:
	@bash tools/images.sh push "$(REGISTRY)"

# Are locks and environments whole, and is a weakness of a locked package known? (AUDIT=--offline asks no database)
audit: setup
	@$(BIN)/python tools/audit.py $(AUDIT)

lint: setup
	@$(PYTHON) tools/setup.py lint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@PYTHONPATH=python $(BIN)/lint-imports --no-cache
	@$(BIN)/mypy --python-executable $(BIN)/python
	@$(BIN)/nextflow lint -o concise main.nf nextflow.config workflows modules conf
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/nf-core pipelines lint --dir .

clean:
	rm -rf .venv .nextflow .nextflow.log* work dist .pytest_cache .hypothesis .ruff_cache .mypy_cache
