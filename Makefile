# What people and CI do here.  Every target first makes .venv, or brings it up to date, if it must.
PYTHON ?= python3
ARGS ?=
bin := .venv/bin
WORKERS = $(shell $(bin)/python -c "import os; print(min(4, 1 + (os.cpu_count() or 1)))")

.PHONY: demo test check setup clean

demo: setup  ## a small comparison, on whatever device there is
	$(bin)/attn-lab -m experiment=demo $(ARGS)

test: setup  ## side by side, one more than there are cores, as many tests wait; with ARGS one after another: ARGS="-m gpu" for the tests that need a GPU
	$(bin)/pytest $(or $(ARGS),-n $(WORKERS) --dist worksteal)

check: setup  ## style, types, and which folder may import which
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	$(bin)/lint-imports --no-logo

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	@echo "setting up .venv with $$($(PYTHON) --version) (minutes the first time, most of them PyTorch)"
	@$(PYTHON) -m venv .venv
	@$(bin)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:  ## all that can be made again; runs/ and results/ stay
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find attn_lab conf hydra_plugins tests scripts -name __pycache__ -prune -exec rm -rf {} +
