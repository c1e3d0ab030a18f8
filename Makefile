# `make study` and `make test` set everything up on a machine that has only Python 3.11.
PYTHON ?= python3.11
VENV := .venv
READY := $(VENV)/.ready

.PHONY: study test setup lint

study: $(READY)
	$(VENV)/bin/reckon study --preset nano

test: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/python -m pytest

setup: $(READY)

# Torch goes first and alone: its pinned version decides which build is taken, before another package can ask for a newer one.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $(READY)
