"""Normalisation by too few values; statistics of each device against one device with its shard."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import config as config_lib
from aggnets_jax import create_model
from aggnets_jax.layers.batch_norm import BatchNorm
from aggnets_jax.layers.shortcuts import NORMS
from aggnets_jax.tasks.classification import Classification
from aggnets_jax.training.optimizer import make_optimizer
from aggnets_jax.training.state import create_state
from aggnets_jax.training.step import make_train_step
from tests import runs
from tests.models.variables import random_variables
from tests.patterns import one_line_error

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import NamedSharding, PartitionSpec
from aggnets_jax import config as config_lib, create_model
from aggnets_jax.connectivity.features import batch_statistics, shift_over_devices
from aggnets_jax.errors import UserError
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.tasks.classification import Classification
from aggnets_jax.training.optimizer import make_optimizer
from aggnets_jax.training.state import create_state
from aggnets_jax.training.step import make_train_step

def preprocess(batch, *, train, seed):
    return batch["image"]

rng = np.random.default_rng(0)
batch = {
    "image": jnp.asarray(rng.normal(size=(16, 8, 8, 1)), jnp.float32),
    "label": jnp.asarray(rng.integers(0, 10, 16), jnp.int32),
}
model = create_model("sparsenet10_k4", 10)
mesh = mesh_lib.make_mesh()
assert mesh.size == 4

def after(batch, mesh, **changes):
    config = config_lib.resolve({"schedule": "constant", "momentum": 0.0, **changes})
    optimizer, _ = make_optimizer(config, 100, 10.0)
    sums = Classification.sums
    state = jax.jit(lambda: create_state(model, optimizer, config, (8, 8, 1), sums))()
    step = make_train_step(Classification(), model, optimizer, preprocess, config, mesh=mesh)
    return jax.device_get(jax.jit(step)(state, batch))

sharded = jax.device_put(batch, mesh_lib.batch_sharding(mesh))
shards = [jax.tree.map(lambda x: x[i : i + 4], batch) for i in range(0, 16, 4)]
alone = [after(shard, None) for shard in shards]
mean = jax.tree.map(lambda *x: np.mean(np.stack(x), 0), *alone)
by_device = after(sharded, mesh, batch_norm="device")
everywhere = after(sharded, mesh)
whole = after(batch, None)

def distance(a, b):
    a, b = (jax.tree.leaves((state.params, state.batch_stats)) for state in (a, b))
    return max(float(np.max(np.abs(x - y))) for x, y in zip(a, b))

assert distance(by_device, mean) < 2e-5, distance(by_device, mean)
assert distance(everywhere, whole) < 2e-5, distance(everywhere, whole)
shifted = after(sharded, mesh, batch_norm="global_shifted")
assert distance(shifted, whole) < 2e-5, distance(shifted, whole)

# Of values far from 0, float32 keeps the variance only with a shift.
far = jax.device_put(1000 + 0.1 * batch["image"], mesh_lib.batch_sharding(mesh))
true = np.var(np.asarray(far, np.float64))
with jax.set_mesh(mesh):
    plain = jax.jit(lambda x: batch_statistics(x)[1][0])(far)
    with shift_over_devices():
        shifted = jax.jit(lambda x: batch_statistics(x)[1][0])(far)
assert abs(float(shifted) / true - 1) < 1e-3, (shifted, true)
assert abs(float(plain) / true - 1) > 0.1, (plain, true)

assert distance(by_device, whole) > 1e-3, distance(by_device, whole)
assert int(by_device.totals["correct"]) == sum(int(s.totals["correct"]) for s in alone)

halves = [after(jax.tree.map(lambda x: x[i : i + 8], batch), None) for i in (0, 8)]
mean_of_halves = jax.tree.map(lambda *x: np.mean(np.stack(x), 0), *halves)
grouped = after(sharded, mesh, batch_norm="group:2")
assert distance(grouped, mean_of_halves) < 2e-5, distance(grouped, mean_of_halves)
assert distance(grouped, whole) > 1e-3, distance(grouped, whole)
for size in (4, 16):  # of all devices, and of no more
    everyone = after(sharded, mesh, batch_norm=f"group:{size}")
    assert distance(everyone, whole) < 2e-5, distance(everyone, whole)
try:
    after(sharded, mesh, batch_norm="group:3")
except UserError as error:
    assert "4 devices have no groups of 3; allowed: divisors of 4" in str(error)
else:
    raise AssertionError("groups of 3 of 4 devices")

accumulated = after(sharded, mesh, batch_norm="device", accumulation_steps=2)
assert distance(accumulated, by_device) > 1e-4
"""


@pytest.mark.slow
def test_each_device_or_group_of_devices_normalises_as_if_alone():
    flags = "--xla_force_host_platform_device_count=4"
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=runs.ROOT,
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]


MODEL = create_model("hcgnet", num_classes=4, modules=(1, 1), growth_rate=4)


def _gradients(images, labels):
    variables = random_variables(MODEL, 8, np.float32)

    def loss(params):
        (logits, _), _ = MODEL.apply(
            {**variables, "params": params},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        return -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels].mean()

    return jax.eval_shape(jax.grad(loss), variables["params"])


def test_one_value_of_each_channel_is_refused_when_traced():
    """A gate behind a global pooling, with one image: its gradient would be 0."""
    images = jnp.zeros((4, 8, 8, 3))
    _gradients(images, jnp.arange(4))
    message = one_line_error(_gradients, images[:1], jnp.arange(1))
    assert "'stage1/layer1/forget_gate/norm' gets one value of each channel" in message
    assert "the smallest batch is 2 images" in message


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_a_step_names_the_smallest_batch_size(accumulation_steps):
    """Even where a config can't tell, as with one image on each device."""
    size = 4 * accumulation_steps
    changes = {"batch_size": size, "accumulation_steps": accumulation_steps, "batch_norm": "device"}
    config = config_lib.resolve({"schedule": "constant", **changes})
    optimizer, _ = make_optimizer(config, 100, 10.0)
    sums = Classification.sums
    state = jax.eval_shape(lambda: create_state(MODEL, optimizer, config, (8, 8, 3), sums))
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.AbstractMesh((4,), ("data",), axis_types=auto)
    step = make_train_step(
        Classification(), MODEL, optimizer, lambda b, **_: b["image"], config, mesh=mesh
    )
    batch = {"image": jnp.zeros((size, 8, 8, 3)), "label": jnp.zeros(size, jnp.int32)}
    message = one_line_error(jax.eval_shape, step, state, batch)
    assert f"the smallest batch is config.batch_size={8 * accumulation_steps}" in message


def test_larger_maps_and_evaluation_take_one_image():
    variables = random_variables(MODEL, 8, np.float32)
    jax.eval_shape(lambda v: MODEL.apply(v, jnp.zeros((1, 8, 8, 3))), variables)
    norm = BatchNorm(use_running_average=False, dtype=jnp.float32)
    variables = norm.init(jax.random.key(0), jnp.zeros((1, 2, 1, 3)))
    norm.apply(variables, jnp.zeros((1, 2, 1, 3)), mutable=["batch_stats"])
    assert "one value" in one_line_error(
        norm.apply, variables, jnp.zeros((1, 1, 1, 3)), mutable=["batch_stats"]
    )
    assert "too small" in one_line_error(
        norm.apply, variables, jnp.zeros((2, 0, 0, 3)), mutable=["batch_stats"]
    )


def test_one_value_in_a_group_is_refused():
    norm = NORMS["instance"](True)(name=None)
    variables = norm.init(jax.random.key(0), jnp.zeros((4, 2, 1, 3)))
    norm.apply(variables, jnp.zeros((4, 2, 1, 3)))
    message = one_line_error(norm.apply, variables, jnp.zeros((4, 1, 1, 3)))
    assert "gets one value in each group" in message
