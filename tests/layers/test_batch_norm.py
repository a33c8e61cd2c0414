"""Batch statistics of each device, on simulated devices, against one device with its shard."""

import os
import subprocess
import sys

import pytest

from tests import runs

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import NamedSharding, PartitionSpec
from aggnets_jax import config as config_lib, create_model
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
