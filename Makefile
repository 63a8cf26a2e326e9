# The commands of a checkout. Each makes .venv and installs what it needs the first time; later it starts at once.
# Relative paths and `python -m` throughout, so that the checkout may stand in a folder with a space in its name.

PYTHON ?= python3
ARGS ?=
PY := .venv/bin/python
SOURCES := learnsgl tests traces scripts
ROOMS := $(patsubst %/__init__.py,%,$(wildcard learnsgl/*/__init__.py))
TYPED := $(wildcard learnsgl/*.py) $(filter-out $(addprefix learnsgl/,engine models attention kernels distributed),$(ROOMS))

# An interpreter that is gone, or a checkout that was moved, makes the stamps below worthless.
INSTALLED_HERE := $(shell $(PY) -I -c 'import os, learnsgl; \
	os.path.samefile(learnsgl.__path__[0], "learnsgl") or exit(1)' 2>/dev/null || rm -f .venv/.installed-*)

.PHONY: help demo test soak serve lab traces bench gpu-check
.DELETE_ON_ERROR:

help:
	@echo 'learnsgl: an LLM inference server that records what each of its parts does'
	@echo
	@echo '  make demo    start here: serves a small real model, asks it four questions at once,'
	@echo '               shows what every process did, and draws it in demo/timeline.png'
	@echo '  make serve   the server at http://127.0.0.1:8000/v1, until Ctrl-C; options go into ARGS,'
	@echo '               as in: make serve ARGS="--port 8001 --trace runs"'
	@echo '               (all of them: make serve ARGS=--help)'
	@echo '  make lab     the notebooks, in JupyterLab'
	@echo '  make traces  the recordings in traces/, made again from the real server'
	@echo '  make bench   measures speed, memory and what recording costs, and writes docs/benchmarks.md;'
	@echo '               close what else runs first (20 minutes at most)'
	@echo '  make test    style, types and all tests: what must hold before a change is merged'
	@echo '  make soak    10,000 requests and fifteen minutes of random load: nothing may leak (25 minutes)'
	@echo '  make gpu-check  on a machine with an NVIDIA GPU, also without a network: the tests, benchmarks and'
	@echo '               recordings that need one, within 20 minutes, as files in gpu-check/'
	@echo
	@echo 'The first of these makes .venv and installs into it (minutes, most of them for torch); the'
	@echo 'model is fetched once (93 MB). From then on all of it works offline. Python 3.11 to 3.13'
	@echo 'is needed; another one than python3 is chosen by: make demo PYTHON=python3.12'

demo: .venv/.installed-demo
	@$(PY) -m learnsgl demo $(ARGS)

serve: .venv/.installed-base
	@$(PY) -m learnsgl serve $(ARGS)

lab: .venv/.installed-notebooks
	@$(PY) -m jupyterlab --LabApp.default_url=/lab/tree/notebooks $(ARGS)

traces: .venv/.installed-demo
	@$(PY) traces/record.py $(ARGS)

bench: .venv/.installed-base
	@$(PY) -m learnsgl bench all $(ARGS)

# pytest comes last, so that its summary is the last line. It runs the demo too (tests/demo), from a folder of its own.
test: .venv/.installed-test
	$(PY) -m ruff check $(SOURCES)
	$(PY) -m ruff format --check $(SOURCES)
	$(PY) -m mypy --strict $(TYPED)
	$(PY) -m learnsgl model pull
	$(PY) -m pytest --nbval tests notebooks $(ARGS)

soak: .venv/.installed-test
	$(PY) -m pytest -m soak tests/load $(ARGS)

# With the interpreter as it is, not .venv: such a machine brings its own PyTorch, and may have no network.
gpu-check:
	@$(PYTHON) scripts/gpu_check.py $(ARGS)

# Each extra holds the one before it, so a larger one counts for the smaller ones too.
.venv/.installed-base: WHAT := .
.venv/.installed-base: HOLDS := base
.venv/.installed-demo: WHAT := .[demo]
.venv/.installed-demo: HOLDS := base demo
.venv/.installed-notebooks: WHAT := .[notebooks]
.venv/.installed-notebooks: HOLDS := base demo notebooks
.venv/.installed-test: WHAT := .[test]
.venv/.installed-test: HOLDS := base demo notebooks test

# .venv/.installing is there while pip runs: found at the start, it tells of an install that was cut off midway.
.venv/.installed-%: pyproject.toml
	@test ! -e .venv/.installing || { \
		echo 'An earlier install was cut off; making .venv anew.'; rm -rf .venv; }
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
		"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
			echo 'learnsgl needs Python 3.11, 3.12 or 3.13; $(PYTHON) is:' "$$("$(PYTHON)" --version 2>&1)"; \
			echo 'Name another one, as in: make $(MAKECMDGOALS) PYTHON=python3.12'; exit 1; }; \
		echo 'Making the virtual environment .venv.'; rm -rf .venv; \
		"$(PYTHON)" -m venv .venv || { \
			rm -rf .venv; \
			echo 'No virtual environment could be made. On Debian and Ubuntu: sudo apt install python3-venv'; \
			exit 1; }; } >&2
	@echo 'Installing $(WHAT); the first time this takes some minutes, most of them for torch.'
	@touch .venv/.installing
	@{ $(PY) -m pip install --disable-pip-version-check --no-input --editable '$(WHAT)'; \
		echo $$? >.venv/.pip-exit; rm -f .venv/.installing; } | while read -r line; do \
		case "$$line" in \
		*' MB)'*) echo "  $$line" ;; \
		'Installing collected'*) echo '  unpacking' ;; \
		esac; done
	@test "$$(cat .venv/.pip-exit)" = 0 || { \
		echo 'The install failed (pip says why above); run the same command to go on.'; exit 1; } >&2
	@for extra in $(HOLDS); do touch ".venv/.installed-$$extra"; done
