# Everything runs in an environment of its own, made on first use from the pinned set.
PYTHON ?= python3
VENV ?= .venv
# Test processes. Each keeps to one thread, so one a core.
WORKERS ?= auto
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-long check docs wheel bench papers clean

$(READY): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $(READY)

demo: $(READY)  ## draw a graph, check its gradient, train an agent
	@mkdir -p pictures
	$(BIN)/scg draw docs/examples/mixed.py:graph --out pictures/mixed.png --derivation
	$(BIN)/scg check docs/examples/mixed.py:graph
	@rm -rf runs/demo
	$(BIN)/scg train reinforce --env CartPole-v1 --steps 100000 --seed 0 --out runs/demo
	@echo
	@echo "The graph:          pictures/mixed.png"
	@echo "The agent's graph:  runs/demo/graph.png"
	@echo "Its learning curve: runs/demo/curve.png"

test: $(READY)  ## the whole suite
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-long: $(READY)  ## the same laws on longer, random examples
	$(BIN)/python -m pytest --hypothesis-profile=long

docs: $(READY)  ## the site in build/site, strictly: a broken link is an error; needs no network
	$(BIN)/python -m mkdocs build --quiet --strict

wheel:  ## the wheel in a fresh environment, beside another distribution's `agents`; downloads
	PYTHON=$(PYTHON) bash tests/wheel/run.sh

check: $(READY)  ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	MYPYPATH=. $(BIN)/mypy --config-file= --strict --follow-imports=silent tests/wheel/typed.py

# The Python of an environment with scg[peers], to have them beside: make bench PEERS=path/to/bin/python
PEERS ?= $(BIN)/python

bench: $(READY)  ## the surrogate against hand-written losses; every estimator on discrete VAEs, beside its peers
	$(BIN)/python -m benchmarks.surrogate
	$(BIN)/python -m benchmarks.estimators --peers $(PEERS)

papers: $(READY)  ## reproduce every paper; their training runs take hours
	@for run in papers/*/run.py; do \
	    echo "-- $$(basename $$(dirname $$run))"; \
	    $(BIN)/scg paper $$(basename $$(dirname $$run)) || exit 1; \
	done

clean:
	rm -rf $(VENV) build dist *.egg-info runs pictures
