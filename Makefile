# make align         set up .venv if need be, run the five steps and ten of training, one table
# make train-align   the same set-up; both frameworks learn handwritten digits for a minute or two
# make test          the same set-up, then the tests
# make lint          ruff, format and rules; mypy, types
# make docs          the documentation as a site, site/index.html, in a small environment of its own
# ARGS reaches the command: make align ARGS="--model mobilenet_v3_large"
#                           make test ARGS="-m slow"
# make turns any failure into its own 2. .venv/bin/python -m alignment keeps 1 (not aligned) and 2
# (could not run) apart.

PYTHON ?= python3
VENV := .venv/bin

.PHONY: align train-align test lint docs clean

align: .venv/installed
	$(VENV)/python -m alignment $(ARGS)

train-align: .venv/installed
	$(VENV)/python Checkpoint6/align_learning.py --short $(ARGS)

test: .venv/installed-dev
	$(VENV)/python -m pytest $(ARGS)

lint: .venv/installed-dev
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy

# The variable: no advertisement of another generator.
docs: .venv-docs/installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict --config-file mkdocs.yml
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict --config-file mkdocs.zh.yml
	@echo "Open site/index.html, in Chinese site/zh/index.html"

.venv-docs/installed: requirements-docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch $@

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(VENV)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(VENV)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf .venv .venv-docs site lite_data result/*.npy result/*.json result/*.html result/log data/*.pth data/*.pdparams data/mv3_*_paddle.json
