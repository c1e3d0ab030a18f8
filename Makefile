# `make study` and `make test` set everything up on a machine that has only Python 3.11.
PYTHON ?= python3.11
VENV := .venv
READY := $(VENV)/.ready

BENCH := .venv-bench

.PHONY: study test setup lint bench torture

study: $(READY)
	$(VENV)/bin/reckon study --preset nano

test: lint
	$(VENV)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

setup: $(READY)

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Torch goes first and alone: its pinned version decides which build is taken, before another package can ask for a newer one.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $(READY)

# The peers live apart, so that nothing they pull in can reach what the study or the tests run on.
bench: $(BENCH)/.ready
	$(BENCH)/bin/python -m benchmarks.cpu $(ARGS)

$(BENCH)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

# Kills runs of every kind and compares what they end as; then what grows over 200 study arms. Half an hour on one core.
torture: $(READY)
	$(VENV)/bin/python benchmarks/torture.py $(ARGS)
	$(VENV)/bin/python benchmarks/soak.py
