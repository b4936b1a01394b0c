# Every target sets up what it needs: .venv in this folder with the pinned packages, once; a second call starts at once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
SETUP := .venv/.installed
# What runs kernels a second time with every index checked: the loops of every placement and of verify among them.
BOUNDS_TESTS := tests/unit tests/property tests/concurrency tests/golden/test_line_oracle.py tests/sim/test_long_rows.py \
  tests/golden/test_verify.py::test_a_run_is_proved tests/sim/test_placements.py::test_same_logs_of_two_feeds_in_small_windows
# Of those, what runs no kernel of its own, or whole processes that the tests of the line run as well: once is enough.
BOUNDS_LEAVE := $(patsubst %,--ignore=tests/unit/test_%.py,cli commands doctor fetch rest live_source bench_tables)
# What is of a part of the line.
PARTS_TESTS := tests/unit tests/property tests/golden/test_determinism.py \
  $(patsubst %,tests/golden/test_%.py,dbn_samples dbn_derived factor_panel feature_tables lean_reference microstructure_reference \
  quality_captures tables_reference venues_reference)
SIM_TESTS := tests/sim tests/concurrency
TIDY_TESTS := tests/tidy
BENCHES := $(patsubst perf/%.py,perf.%,$(wildcard perf/bench_*.py)) perf.run_line perf.pipeline_tick_to_order

# Runs $(2) as the step named $(1) and says how long it took.
step = @echo "== $(1)"; began=$$(date +%s); $(2); echo "== $(1): $$(($$(date +%s) - began)) s"

.PHONY: help setup demo test lint unit tidy sim line parts bounds bench peers regression long fuzz lock clean
help:
	@echo "make demo | test | lint | bench | peers | regression | long | fuzz | lock | clean"

setup: $(SETUP)
$(SETUP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Tickline needs Python 3.11 or later; set PYTHON=" >&2; exit 1; }
	$(call step,venv,test -x $(BIN)/python || $(PYTHON) -m venv .venv)
	$(call step,packages,$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt setuptools; \
	  $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev$(comma)store]')
	@touch $@
comma := ,

demo: $(SETUP)
	@$(BIN)/tickline demo

# Fails at the first step that does. The long ones run side by side on two cores, three at a time since many tests wait; each is printed
# when it ends.
test: lint
	@echo "== tests, side by side: some ten minutes, with a word when one of five is done"
	@$(MAKE) --no-print-directory -j3 --output-sync=target sim line parts bounds
	@$(MAKE) --no-print-directory bench

lint: $(SETUP)
	$(call step,ruff,$(BIN)/ruff check .)
	$(call step,mypy,$(BIN)/mypy)
	$(call step,imports,$(BIN)/lint-imports)

unit: $(SETUP)
	$(call step,tests,$(BIN)/python -m pytest -q)

# Lines as they are used, which often wait; whole lines and how they are proved; their parts. `tidy` reads the code of every kernel of the
# line, so what these need is compiled once, before they start, beside `bounds`, which compiles its own.
tidy: $(SETUP)
	$(call step,tests of the code,$(BIN)/python -m pytest -q $(TIDY_TESTS))
sim: tidy
	$(call step,tests of lines in use,$(BIN)/python -m pytest -q $(SIM_TESTS))
line: tidy
	$(call step,tests of the line,$(BIN)/python -m pytest -q $(patsubst %,--ignore=%,$(PARTS_TESTS) $(SIM_TESTS) $(TIDY_TESTS)))
parts: tidy
	$(call step,tests of its parts,$(BIN)/python -m pytest -q $(PARTS_TESTS))

bounds: $(SETUP)
	$(call step,tests with checked indices,NUMBA_BOUNDSCHECK=1 $(BIN)/python -m pytest -q $(BOUNDS_TESTS) $(BOUNDS_LEAVE))

# The small size of each benchmark: it verifies its result, so that it cannot rot.
bench: $(SETUP)
	$(call step,benchmarks,for name in $(BENCHES); do echo "-- $$name"; $(BIN)/python -m $$name --small; done; \
	  echo "-- perf.pipeline_peers$(comma) ours alone"; \
	  $(BIN)/python -m perf.pipeline_peers --only tickline --rounds 1 --rows 50000 --nautilus-rows 50000)

peers: $(SETUP)
	@$(BIN)/python -m perf.pipeline_peers

# Fails when the line is slower than at BASE by over 5 %, in pairs.
BASE ?= HEAD~1
regression: $(SETUP)
	@$(BIN)/python -m perf.regression --base $(BASE)

# What the tests do, at length: 10^8 records through the ring, 10,000 examples a property, 20 seeds a random test.
long: $(SETUP)
	$(call step,ring litmus,TICKLINE_LONG=1 $(BIN)/python -m pytest -q tests/concurrency)
	$(call step,properties,TICKLINE_EXAMPLES=10000 $(BIN)/python -m pytest -q tests/property)
	$(call step,seeds,TICKLINE_SEEDS=20 $(BIN)/python -m pytest -q tests/unit tests/sim tests/golden)

# Damaged files of a format through its decoder, guided by coverage; the formats are in tests/fuzz_feeds.py.
FORMAT ?= dbn
FUZZ_SECONDS ?= 60
fuzz: $(SETUP)
	@$(BIN)/python -m tests.fuzz_feeds $(FORMAT) --seconds $(FUZZ_SECONDS)

# Pins what a fresh environment resolves to today.
lock:
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; $(PYTHON) -m venv "$$folder"; \
	"$$folder/bin/pip" install -q 'setuptools>=77'; "$$folder/bin/pip" install -q --no-build-isolation '.[dev,store]'; \
	{ head -1 constraints.txt; "$$folder/bin/pip" freeze --all | grep -Ev '^(pip|tickline)( @ |==)'; } > "$$folder/pins"; \
	cp "$$folder/pins" constraints.txt

# Runs stay: they are the record.
clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find engine handlers transport perf tests -name __pycache__ -type d -prune -exec rm -rf {} +
