"""Steps on simulated devices: slices of them, and what the devices send each other."""

import collections
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import config as config_lib
from aggnets_jax.training.gradients import Phases, at_sharpest
from tests import runs
from tests.patterns import one_line_error


def on_devices(program, devices, *arguments):
    """Run a program on simulated devices, and return what it prints as JSON."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=runs.ROOT,
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


SLICES = """
import json
import jax, jax.numpy as jnp, numpy as np
from aggnets_jax import config as config_lib
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.tasks import get_task
from aggnets_jax.training.setup import set_up
from tests import runs

rng = np.random.default_rng(0)
batch = {
    "image": jnp.asarray(rng.normal(size=(32, 8, 8, 1)), jnp.float32),
    "label": jnp.asarray(rng.integers(0, 2, 32), jnp.int32),
    "epoch": jnp.zeros(32, jnp.int32),
    "index": jnp.arange(32, dtype=jnp.int32),
}

def after(slices, **changes):
    config = runs.tiny_config(None, model={"name": "sparsenet_bc16_k4"}) | changes
    config["data"] |= {"mixup": 1.0}
    config = config_lib.resolve(config)
    mesh = mesh_lib.make_mesh(slices)
    setup = set_up(config, get_task(config), info=runs.DATASET, mesh=mesh)
    state = setup.new_state(mesh)
    where = {
        name for x in jax.tree.leaves(state.params) for name in x.sharding.spec if name is not None
    }
    step = setup.train_step(lambda batch, train, seed: batch["image"], mesh)
    step = jax.jit(step, out_shardings=setup.state_sharding(mesh))
    state = step(step(state, batch), batch)
    return jax.device_get((state.params, state.batch_stats)), mesh.shape, sorted(where)

def distance(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.max(np.abs(x - y))) for x, y in pairs)

whole, shape, _ = after(1)
found = {"axes": [dict(shape)], "distances": [], "divided": []}
for changes in ({}, {"sharding": "fsdp"}):
    other, shape, where = after(2, **changes)
    found["axes"].append(dict(shape))
    found["distances"].append(distance(whole, other))
    found["divided"].append(where)
own = {"batch_norm": "device"}
found["distances"].append(distance(after(1, **own)[0], after(2, **own)[0]))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_slices_train_as_one_mesh_and_divide_parameters_within_each():
    found = on_devices(SLICES, 4)
    assert found["axes"] == [{"data": 4}, *[{"slice": 2, "data": 2}] * 2]
    assert found["divided"] == [[], ["data"]]
    assert max(found["distances"]) < 2e-5


COLLECTIVES = """
import json, sys
import jax
from aggnets_jax import config as config_lib
from aggnets_jax.benchmark.dry_run import dry_run
from aggnets_jax.config_fields.known_data import known_data
from aggnets_jax.models import create_configured_model
from aggnets_jax.models.registry import find_family
from aggnets_jax.training.state import model_shapes
from tests.models.tiny import TINY

found = {}
for name in sys.argv[1:]:
    config = config_lib.load(name, ["batch_size=64"])
    given = config_lib.to_json(config)
    family = find_family(config.model.name).name
    arguments, side = TINY[family]
    given["model"]["args"] |= arguments
    if config.data.name == "imagenet2012":
        given["data"]["image_size"] = side
        given["progressive"] = [[start, side * n // 224] for start, n in given["progressive"]]
    config = config_lib.resolve(given)
    data = known_data(config)
    model = create_configured_model(config, data.num_classes)
    shapes = model_shapes(model, data.image_shape)["batch_stats"]
    statistics = sum(x.size for x in jax.tree.leaves(shapes))
    # A step has a branch for each size of the images.
    sizes = len(config.progressive) or 1
    found[name] = dry_run(config) | {"statistics": statistics, "sizes": sizes}
print(json.dumps(found))
"""

RECIPES = [
    f"configs/recipes/{file.name}{row}"
    for file in sorted((runs.ROOT / "configs" / "recipes").glob("*.py"))
    for row in [f":{name}" for name in config_lib.rows(file)] or [""]
]


@pytest.mark.slow
@pytest.mark.parametrize("recipes", [RECIPES[::2], RECIPES[1::2]])
def test_devices_send_only_gradients_statistics_and_sums(recipes):
    """Images, such as those of a partner in mixup, would be gathered, and be larger."""
    for name, found in on_devices(COLLECTIVES, 4, *recipes).items():
        assert set(found["collectives"]) == {"all-reduce"}, name
        sent = found["collectives"]["all-reduce"]["bytes"] / found["sizes"]
        # The statistics are sums over the batch in the forward and in the backward pass.
        sums = 2 * 4 * found["statistics"] + 1000
        assert 4 * found["params"] <= sent <= 4 * found["params"] + sums, name


@pytest.mark.parametrize("frozen", [False, True])
def test_sam_takes_the_gradient_where_the_loss_is_highest(frozen):
    """A parabola with the axes 1 and 4; a frozen parameter is not moved."""
    curvature = {"a": jnp.array([1.0, 4.0]), "b": jnp.array([2.0])}

    def gradient_fn(params, batch_stats, *others):
        gradients = jax.tree.map(jnp.multiply, curvature, params)
        return (jnp.float32(7), (batch_stats + 1, {})), gradients

    params = {"a": jnp.array([3.0, 1.0]), "b": jnp.array([6.0])}
    sharpened = at_sharpest(gradient_fn, 0.5, lambda _: {"a": True, "b": not frozen})
    (loss, (batch_stats, _)), gradients = sharpened(params, jnp.float32(1), None, None, None)
    assert (loss, batch_stats) == (7, 2)
    first, norm = np.array([3.0, 4.0, 12.0]), 5 if frozen else 13
    moved = np.array([3.0, 1.0, 6.0]) + 0.5 / norm * first * [1, 1, not frozen]
    actual = np.concatenate([gradients["a"], gradients["b"]])
    np.testing.assert_allclose(actual, [1, 4, 2] * moved, rtol=1e-6)


def test_sam_stays_where_the_gradient_is_zero():
    def gradient_fn(params, *others):
        return (), jax.tree.map(jnp.zeros_like, params)

    sharpened = at_sharpest(gradient_fn, 0.5, lambda params: jax.tree.map(lambda _: True, params))
    _, gradients = sharpened({"a": jnp.ones(3)})
    assert not np.any(gradients["a"])


Images = collections.namedtuple("Images", ("images",))


def test_images_grow_during_a_run():
    """A small image has the means of the pixels of a large one."""
    phases = Phases(((0.0, 4), (0.5, 8)), 10, (8, 8, 1))

    def gradient_fn(params, batch_stats, examples, *others):
        side, pixels = examples.images.shape[1], examples.images
        return jnp.float32(side), jnp.array([pixels.mean(), pixels.std()])

    rows = jnp.repeat(jnp.array([0.0, 1.0]), 4)  # the upper half black, the lower white
    examples = Images(jnp.tile(rows[:, None, None], (3, 1, 8, 1)))
    of_step = jax.jit(lambda step: phases.gradient(gradient_fn, step)(0.0, 0.0, examples))
    for step, side in ((0, 4), (4, 4), (5, 8), (9, 8)):
        found, (mean, deviation) = of_step(step)
        assert found == side
        assert mean == pytest.approx(0.5)
        assert deviation == pytest.approx(0.5 if side == 8 else 0.45, abs=0.03)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ((0.0, 4), "must be pairs of a fraction of the run and a side"),
        (((0.1, 4),), "must rise from 0"),
        (((0.0, 4), (0.5, 8), (0.5, 8)), "must rise from 0"),
        (((0.0, 4), (1.0, 8)), "must rise from 0"),
        (((0.0, 9),), "must be a whole number of at most 8, got 9"),
        (((0.0, 4.5),), "must be a whole number"),
    ],
)
def test_phases_that_are_refused(pairs, message):
    assert message in one_line_error(Phases, pairs, 10, (8, 8, 1))
