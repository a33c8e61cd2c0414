# Every target does its own set-up; nothing is needed but make and Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# A process for each core; tests of one file share what they train.
PYTEST := $(RUN) -m pytest --numprocesses auto --dist loadfile
DEMO := runs/demo

.PHONY: setup demo test test-slow torch lint lock clean

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: Python 3.11 or newer is needed; make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --require-hashes -r requirements.lock
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	rm -rf $(DEMO)
	$(RUN) -m aggnets_jax.main --config=configs/digits.py --workdir=$(DEMO)
	$(RUN) -m aggnets_jax.main --mode=eval --workdir=$(DEMO)
	$(RUN) -m aggnets_jax.main --mode=report --workdir=$(DEMO) --html

test: setup
	$(PYTEST) -m "not slow"

# Deep networks, and those with many parts, against their references.
test-slow: setup
	$(PYTEST) -m slow

# The build without CUDA, for the tests of what is compared with PyTorch; others skip them.
torch: setup
	$(RUN) -m pip install --quiet --retries 1 torch==2.13.0 \
		--extra-index-url https://download.pytorch.org/whl/cpu

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

# The lock is universal: one file for Python 3.11 to 3.13.
lock: setup
	$(RUN) -m pip install --quiet uv
	$(RUN) -m uv pip compile setup.py --extra dev --universal --python-version 3.11 \
		--fork-strategy fewest --generate-hashes --no-emit-index-url --quiet \
		--custom-compile-command "make lock" --output-file requirements.lock

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
