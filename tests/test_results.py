"""The scripts of results/ and their tables."""

import importlib

import jax
import optax
import pytest

from results import detection
from tests import runs
from tests.detection import tiny

SCRIPTS = sorted(file.stem for file in (runs.ROOT / "results").glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_finds_all_that_it_imports(name):
    script = importlib.import_module(f"results.{name}")
    assert callable(script.main)


@pytest.mark.slow
def test_the_measured_step_of_a_detector_trains_it():
    detector, variables = tiny.detector(), tiny.variables()
    params, optimizer = variables["params"], optax.sgd(0.01, 0.9)
    rest = {name: tree for name, tree in variables.items() if name != "params"}
    keys = jax.random.key_data(jax.random.split(jax.random.key(0), 2))
    state, losses = optimizer.init(params), []
    step = jax.jit(detection.train_step(detector, optimizer))
    for _ in range(4):
        params, state, loss = step(params, rest, state, *tiny.scenes(), keys)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
