# `make sweep` and `make test` do all set-up themselves; a second call installs nothing.
.PHONY: sweep test lint docs ui cluster-demo cluster-test clean
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin

define ROOM
import shutil, sys
free = shutil.disk_usage(".").free / 1e9
sys.exit(f"installing takes 7.7 GB of disk, most of it for GPUs; here are {free:.1f} GB free" if free < 7.7 else 0)
endef
export ROOM

sweep: .venv/.installed
	$(BIN)/paraphrase sweep run menagerie

# A thread for each process; three of them, since one that waits for a cluster computes nothing.
test: .venv/.cluster
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 3 --dist worksteal -m "not long"

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What is written from the code: the page of all fields and the JSON schemas that editors use.
docs: .venv/.installed
	$(BIN)/paraphrase fields --markdown > docs/fields.md
	for kind in sweep config; do $(BIN)/paraphrase fields --schema $$kind > sweep/configs/$$kind.schema.json; done

ui: .venv/.installed
	$(BIN)/paraphrase ui

# All parts of a cluster on this machine, for a sweep that loses one of its two nodes; needs Debian's postgresql.
cluster-demo: .venv/.cluster
	$(BIN)/python infra/local/demo.py

# What does not fit into `make test`: long tests, a driver killed at whatever it writes, and a sweep in a storm of faults at
# random; `SOAK="--trials 150 --deck 1"` for an hour of them.
cluster-test: .venv/.cluster
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m cluster tests/infra
	PYTHONPATH=tests:infra/local $(BIN)/python tests/infra/kills.py
	PYTHONPATH=tests:infra/local $(BIN)/python tests/infra/soak.py $(SOAK)

clean:
	rm -rf .venv .paraphrase build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# Compiled on all cores, which pip does not; and for all, since some machines forbid Python to keep what it compiles itself.
.venv/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c "$$ROOM"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[dev]"
	$(BIN)/python -m compileall -q -j 0 .venv/lib core sweep ablations paraphrase
	touch $@

.venv/.cluster: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[dev,cluster,local]"
	$(BIN)/python -m compileall -q -j 0 .venv/lib infra/local
	touch $@
