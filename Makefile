# make install       a virtual environment in .venv, from the lock file
# make demo          the main job: LEFF on the built-in task
# make demo-network  a server and three devices on this machine
# make test          all tests, the slow ones in a second step
# make browser       Debian's Chromium, for the tests of the page; needs root
# make docs          the site of docs/, into build/docs/site; its links are checked
# make soak          fuzz tests in their full size; takes hours
# make lint          format, lint, types, and the direction of imports
# make lock          requirements.lock anew, from pyproject.toml

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: install demo demo-network test browser docs soak lint lock

install: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "LEFF needs Python 3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: install
	$(BIN)/leff run

demo-network: install
	$(BIN)/python src/leff/examples/network/three_devices.py

test: install
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m "not slow"
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m slow

browser:
	command -v chromium || command -v chromium-browser || \
	  (apt-get update --quiet=2 && DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends chromium)

docs: install
	$(BIN)/python scripts/build_docs.py

soak: install
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m soak --soak

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# The extras name each other through leff itself, which the lock leaves out.  torch's wheels of one
# version differ by index (+cpu, +cu130), so the lock names the version alone.
lock: install
	$(BIN)/pip install --quiet pip-tools
	$(BIN)/pip-compile --quiet --extra dev --strip-extras --no-annotate \
	  --no-header --no-emit-find-links --no-emit-index-url --constraint constraints.txt \
	  --output-file requirements.lock pyproject.toml
	sed -i.bak -e '/^leff @/d' -e 's/^\(torch==[0-9.]*\)+.*/\1/' requirements.lock && rm requirements.lock.bak
