# make align         set up .venv if need be, run the five steps and ten of training, one table
# make train-align   the same set-up; both frameworks learn handwritten digits for a minute or two
# make test          the same set-up, then the tests
# make lint          ruff, format and rules
# ARGS reaches the command: make align ARGS="--model mobilenet_v3_large"
#                           make test ARGS="-m slow"

PYTHON ?= python3
VENV := .venv/bin

.PHONY: align train-align test lint clean

align: .venv/installed
	$(VENV)/python -m alignment $(ARGS)

train-align: .venv/installed
	$(VENV)/python Checkpoint6/align_learning.py --short $(ARGS)

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
	rm -rf .venv lite_data result/*.npy result/*.json result/*.html result/log data/*.pth data/*.pdparams data/mv3_*_paddle.json
