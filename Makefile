# krona: `make sweep` and `make test` install everything into .venv the first time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KRONA := $(BIN)/krona
CLUSTER ?= local
UV_VERSION := 0.13.9
unexport PYTHONDONTWRITEBYTECODE  # a sweep is many processes, which else compile all they import

# TRIALS=16 STEPS=100 SUBJECT=duck PHOTOS=folder CLASS=dog BASE=toyland RESUME=1 reach the sweep.
SWEEP_OPTIONS = $(if $(TRIALS),--trials $(TRIALS)) $(if $(STEPS),--steps $(STEPS)) \
	$(if $(SUBJECT),--subject "$(SUBJECT)") $(if $(PHOTOS),--photos "$(PHOTOS)") \
	$(if $(CLASS),--class-noun "$(CLASS)") $(if $(BASE),--base "$(BASE)") \
	$(if $(RESUME),--resume)

.PHONY: help install sweep photos test check best report ui export bench bench-gpu cluster-up cluster-down clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 16

install: $(VENV)/.installed  ## install into .venv (every target does it when needed)

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "krona needs Python 3.11 or newer, got " + sys.version.split()[0] + "; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $@

sweep: install  ## search the best adapter: TRIALS= STEPS= SUBJECT= PHOTOS= CLASS= BASE= RESUME=1
	$(KRONA) sweep $(SWEEP_OPTIONS) $(ARGS)

photos: install  ## what would be learned of PHOTOS=folder (CLASS=), as a table and on photos.png
	$(KRONA) photos "$(PHOTOS)" $(if $(CLASS),--class-noun "$(CLASS)") $(ARGS)

best: install  ## the ranking of the last sweep (SUBJECT=)
	$(KRONA) best $(if $(SUBJECT),--subject "$(SUBJECT)") $(ARGS)

report: install  ## the last sweep on one page: SWEEP=<name> ARGS=--open
	$(KRONA) report $(SWEEP) $(ARGS)

export: install  ## write the champion for another tool: FORMAT=kohya|lycoris|diffusers|peft|lora|merged|merged-file RUN=<id>
	$(KRONA) export $(RUN) --format $(or $(FORMAT),kohya) $(if $(SUBJECT),--subject "$(SUBJECT)") $(ARGS)

ui: install  ## the MLflow UI on http://127.0.0.1:5000
	$(KRONA) ui $(ARGS)

test: install  ## all tests
	$(BIN)/python -m pytest $(ARGS)

check: install  ## lint, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install  ## the benchmarks; results go to benchmarks/results/
	$(BIN)/python benchmarks/layer.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/pack.py
	$(BIN)/python benchmarks/precision.py
	$(BIN)/python benchmarks/sweep.py

bench-gpu: install  ## what only CUDA can tell, in eight minutes or less; ARGS="--part sdxl" for one part
	$(BIN)/python benchmarks/gpu.py $(ARGS)

cluster-up: install  ## start the cluster of clusters/$(CLUSTER).yaml
	$(BIN)/ray up --yes clusters/$(CLUSTER).yaml

cluster-down: install  ## stop the cluster of clusters/$(CLUSTER).yaml
	$(BIN)/ray down --yes clusters/$(CLUSTER).yaml

clean:  ## remove the environment and tool caches; sweeps, MLflow records and exports stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
