# make align   set up .venv if need be, run the five steps, print one table
# make test    the same, then the tests
# make lint    ruff, format and rules
# ARGS reaches the command: make align ARGS="--model mobilenet_v3_large"
#                           make test ARGS="-m slow"

PYTHON ?= python3
VENV := .venv/bin

.PHONY: align test lint clean

align: .venv/installed
	$(VENV)/python -m alignment $(ARGS)

test: .venv/installed-dev
	$(VENV)/python -m pytest $(ARGS)

lint: .venv/installed-dev
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(VENV)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(VENV)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf .venv lite_data result/*.npy result/log data/*.pth data/*.pdparams
